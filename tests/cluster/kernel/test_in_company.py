"""Egress IPs beside real neighbours, on whole clusters: two network plugins, kube-proxy in both modes, and what
administrators and daemons do to nodes. After each step everything is tried, and nothing may fail.

One combination runs by default, all with `scripts/test cluster --all`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from egress_router.egressip.node.state import TUNNEL
from lab import client
from lab.host import Host
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.plan import PODS4, PODS6, Plan
from tests.cluster.kernel.installation import FIRST, FIRST6, EgressIPs
from tests.cluster.kernel.whole_check import ANSWERED, DENIED, WITH, WholeCheck, ping, tcp, udp
from tests.support.kubernetes import EVERYTHING
from tests.support.products import client_pod

#: FORWARD drops in all of them at once: of iptables-nft and of iptables-legacy.
TOOLS = ("iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy")
ROWS = [(cni, proxy) for cni in ("kube-router", "bridge") for proxy in ("nftables", "iptables")]

pytestmark = [
    pytest.mark.root,
    pytest.mark.on_demand,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(900),
    pytest.mark.parametrize(
        "cluster",
        [Plan(cni=cni, proxy=proxy) for cni, proxy in (ROWS if EVERYTHING else ROWS[:1])],
        indirect=True,
        ids=[f"{cni} {proxy}" for cni, proxy in (ROWS if EVERYTHING else ROWS[:1])],
    ),
]


class Company:
    """A cluster, the table of probes, and egress IPs once they are installed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.check = WholeCheck(cluster)
        self.egress: dict[int, str] = {}
        self.installed: EgressIPs | None = None

    def install(self) -> None:
        """Install egress IPs, and give the namespace its own."""
        self.installed = EgressIPs(self.cluster, clients=False)
        self.egress = {version: {4: FIRST, 6: FIRST6}[version] for version in self.check.families}
        self.installed.egress_ip(*self.egress.values())

    def nodes(self) -> list[Host]:
        """Return the nodes as hosts."""
        return [self.cluster.host(name) for name in self.check.nodes]

    def everything_works(self, step: str) -> None:
        """Wait until pods leave as they shall, then try everything once: nothing may fail."""

        def settled() -> bool:
            outside = [probe for probe in self.check.probes(self.egress) if "outside" in probe.name]
            return not any(probe.failure() for probe in outside)

        took = self.cluster.wait(f"{step}: pods leave with their addresses", settled, 120.0)
        number, failures = self.check.failures(self.egress)
        print(f"{self.cluster.shape.cni}, kube-proxy {self.cluster.shape.proxy}, {step}: ", end="")
        print(f"{len(failures)} of {number} probes failed; settled after {took:.1f} s")
        story = "" if self.installed is None or not failures else self.installed.story()
        assert not failures, "\n".join([*failures[:40], story])


@pytest.fixture(scope="module")
def company(cluster: Cluster) -> Iterator[Company]:
    cluster.load_products()
    made = Company(cluster)
    yield made
    made.check.close()


def test_everything_works_before(company: Company) -> None:
    """The positive control of all that follows, and of the table."""
    company.everything_works("before the installation")


def test_everything_works_with_egress_ips(company: Company) -> None:
    company.install()
    company.everything_works("installed")


def policy(name: str, *networks: str) -> dict[str, object]:
    """Return an egress NetworkPolicy: pods of role restricted reach only these networks."""
    to = [{"ipBlock": {"cidr": network}} for network in networks]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"role": "restricted"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": to}],
        },
    }


def test_what_a_policy_denies_stays_denied(company: Company) -> None:
    """With an egress IP on this node and on another one, to machines outside and to pods: from before its pods leave,
    while they do, and after it is gone.
    """
    if company.cluster.shape.cni != "kube-router":
        pytest.skip("the bridge plugin enforces no policies")
    cluster, check = company.cluster, company.check
    pods = [client_pod(f"restricted-{node}", node, "shop") for node in check.nodes]
    for one in pods:
        one["metadata"]["labels"] = {"role": "restricted"}
    cluster.apply(pods)
    cluster.kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
    hosts = {node: check.restricted(node) for node in check.nodes}
    inside = str(check.pods["without", "node-1"].addresses[4])
    denied: dict[str, Callable[[Host], str]] = {
        "TCP": lambda host: tcp(host, DENIED[4], 80),
        "UDP": lambda host: udp(host, DENIED[4], 80),
        "ping": lambda host: ping(host, DENIED[4]).replace(ANSWERED, FIRST),
    }

    def said(ask: Callable[[Host], str], host: Host) -> str:
        try:
            return ask(host)
        except client.NoReply:
            return "denied"

    def all_denied(wanted: bool) -> bool:
        answers = [said(ask, host) for host in hosts.values() for ask in denied.values()]
        return all((answer in ("denied", "timeout")) == wanted for answer in answers)

    cluster.wait("without a policy everything is reached", partial(all_denied, wanted=False), 60.0)
    cluster.apply([policy("only-one", f"{WITH[4]}/32")])
    cluster.wait("the policy is in force", partial(all_denied, wanted=True), 60.0)
    with cluster.capture() as seen:
        for _ in range(10):
            for node, host in hosts.items():
                for name, ask in denied.items():
                    assert said(ask, host) in ("denied", "timeout"), f"{name} from {node}: the policy does not hold"
                assert said(partial(tcp, target=inside, port=8080), host) == "denied", f"pod to pod from {node}"
                assert tcp(host, WITH[4], 80) == FIRST, f"what is allowed, from {node}"
                assert udp(host, WITH[4], 80) == FIRST
        assert not [one for one in seen.received() if str(one.dst) == DENIED[4]], "nothing went out"
        assert [one for one in seen.received() if str(one.dst) == WITH[4]], "positive control"
    company.everything_works("with a policy in force")
    cluster.kubectl("-n", "shop", "delete", "networkpolicy", "only-one")
    cluster.wait("without it everything is reached again", partial(all_denied, wanted=False), 60.0)
    cluster.kubectl("-n", "shop", "delete", "pods", "-l", "role=restricted", "--grace-period=0", "--force")


def test_everything_works_with_strict_reverse_paths(company: Company) -> None:
    """rp_filter 1 on every interface that there is and that comes; the agent sets those loose that have to be."""
    for host in company.nodes():
        names = host.run(["ls", "/proc/sys/net/ipv4/conf"]).stdout.split()
        for name in ["all", "default", *names]:
            host.sysctl(f"net.ipv4.conf.{name}.rp_filter", 1)
    company.everything_works("rp_filter 1 everywhere")


def test_everything_works_where_forwarding_is_denied(company: Company) -> None:
    """As Docker, ufw and hardened nodes have it, with what a network plugin accepts for its pods."""
    ranges = company.cluster.shape.pod_ranges
    for host in company.nodes():
        own4, own6 = ranges[host.name]
        for tool in TOOLS:
            own, pods = (own6, PODS6) if tool.startswith("ip6") else (own4, PODS4)
            for rule in (
                f"-A FORWARD -s {own}",
                f"-A FORWARD -d {pods}",
                "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED",
            ):
                host.run([tool, "-w", "5", *rule.split(), "-j", "ACCEPT"])
            host.run([tool, "-w", "5", "-P", "FORWARD", "DROP"])
    company.everything_works("FORWARD DROP")
    for host in company.nodes():
        for tool in TOOLS:
            listed = host.run([tool, "-w", "5", "-S", "FORWARD"]).stdout
            assert TUNNEL in listed, f"{tool} on {host.name}: it worked by another way than by our rule"


def test_everything_works_after_the_others_daemons_were_restarted(company: Company) -> None:
    """kube-proxy and the kubelet, and kube-router where it is the network: each writes its rules anew."""
    cluster = company.cluster
    daemons = [*(daemon for node in cluster.nodes for daemon in (node.proxy, node.kubelet)), *cluster.kube_routers]
    for daemon in daemons:
        daemon.stop()
        daemon.start()
    time.sleep(5)
    for daemon in daemons:
        daemon.require_running()
    company.everything_works("daemons restarted")


def test_everything_works_after_agents_and_controllers_were_restarted(company: Company) -> None:
    assert company.installed is not None
    for what in ("daemonset/egress-router-node", "deployment/egress-router-controller"):
        company.installed.kubectl("rollout", "restart", what)
        company.installed.kubectl("rollout", "status", what, "--timeout=240s", timeout=260)
    company.everything_works("agents and controllers restarted")


def test_everything_works_when_what_was_denied_is_allowed_again(company: Company) -> None:
    for host in company.nodes():
        for tool in TOOLS:
            host.run([tool, "-w", "5", "-P", "FORWARD", "ACCEPT"])
    company.everything_works("FORWARD ACCEPT again")
