"""Egress IPs as they are installed: `kubectl apply -k deploy/egress-ips`, pods on real kubelets, packets outside."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import pytest

from lab.kubernetes.cluster import Cluster
from lab.kubernetes.machines import CHECKOUT
from lab.kubernetes.plan import Plan
from lab.process import CommandFailed
from tests.cluster.kernel.installation import ECHO, ECHO6, FIRST, FIRST6, HOLDERS, NODES, SECOND, EgressIPs, traces
from tests.support.products import client_pod

pytestmark = [
    pytest.mark.root,
    pytest.mark.on_demand,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(400),
    pytest.mark.parametrize("cluster", [Plan()], indirect=True, ids=["bridge"]),
]


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> EgressIPs:
    cluster.load_products()
    cluster.echo(ECHO, tcp=[80])
    cluster.echo(ECHO6, tcp=[80])
    return EgressIPs(cluster)


def test_local_and_remote_pods_leave_with_the_egress_ip(installed: EgressIPs) -> None:
    """Ready means that packets leave with it: of pods on the holder and elsewhere, in both families."""
    assert installed.source(installed.client("node-1")) == NODES["node-1"], "before there is one it is the node's"
    installed.egress_ip(FIRST, FIRST6)
    holders = installed.holders()
    assert set(holders.values()) <= set(HOLDERS)
    with installed.cluster.capture() as seen:
        for node in NODES:
            assert installed.source(installed.client(node)) == FIRST, f"{node}, held by {holders[FIRST]}"
            assert installed.source(installed.client(node), ECHO6) == FIRST6
        assert installed.source(installed.cluster.pod("client", "other")) == NODES["node-1"], "nobody selects this one"
    (mac,) = seen.owners(FIRST)
    link = json.loads(installed.cluster.host(holders[FIRST]).ip("-j link show eth0"))
    assert link[0]["address"] == mac, "it comes from the node that says it has it"
    sources = {str(packet.src) for packet in seen.received() if packet.proto == "tcp"}
    assert sources == {FIRST, FIRST6, NODES["node-1"]}


def test_the_pods_are_as_little_privileged_as_written(installed: EgressIPs) -> None:
    pods = json.loads(installed.kubectl("get", "pods", "-o", "json"))["items"]
    assert len(pods) == 5
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert not container["securityContext"].get("privileged", False)
        (status,) = pod["status"]["containerStatuses"]
        assert status["restartCount"] == 0, installed.story()


def test_a_rolling_update_of_the_agents_loses_no_packet(installed: EgressIPs) -> None:
    """An agent that ends leaves all in its kernel, and the next one takes it over."""
    installed.egress_ip(FIRST, FIRST6)
    with installed.cluster.capture() as seen:
        floods = {
            (node, server): installed.client(node).popen(
                ["ping", "-q", "-i", "0.01", server], stdout=subprocess.PIPE, text=True
            )
            for node in NODES
            for server in (ECHO, ECHO6)
        }
        time.sleep(1)
        installed.kubectl("rollout", "restart", "daemonset/egress-router-node")
        installed.kubectl("rollout", "status", "daemonset/egress-router-node", "--timeout=180s", timeout=200)
        time.sleep(1)
        sent = {}
        for key, ping in floods.items():
            ping.send_signal(signal.SIGINT)
            told = ping.communicate(timeout=20)[0]
            sent[key] = [int(number) for number in re.findall(r"(\d+) (?:packets transmitted|received)", told)]
    print(f"sent and received: {sent}")
    echo_requests = (("icmp", 8), ("icmpv6", 128))
    assert {str(one.src) for one in seen.received() if (one.proto, one.icmp_type) in echo_requests} == {FIRST, FIRST6}
    # The last question may have no answer yet when it is interrupted.
    lost = {key: transmitted - received for key, (transmitted, received) in sent.items()}
    assert all(transmitted > 300 for transmitted, _ in sent.values())
    assert all(0 <= number <= 1 for number in lost.values()), lost


def test_a_node_is_drained_and_comes_back(installed: EgressIPs) -> None:
    """First of its egress IPs, so that traffic leaves by the other node; then of its pods (`kubectl drain` leaves
    DaemonSets alone); and nothing leaves with another source.
    """
    installed.egress_ip(FIRST, SECOND)
    node = installed.holders()[FIRST]
    others = [name for name in NODES if name != node]

    def drain(wanted: bool) -> None:
        spec = json.dumps({"spec": {"drain": wanted}})
        installed.cluster.kubectl("patch", "egressnode", node, "--type=merge", "-p", spec)

    with installed.cluster.capture() as seen:
        drain(True)
        try:
            for name in others:
                host = installed.client(name)
                installed.until("the other node translates", lambda h=host: installed.source(h) == SECOND, 60)  # type: ignore[misc]
            words = ("drain", node, "--ignore-daemonsets", "--force", "--grace-period=1", "--timeout=60s")
            installed.cluster.kubectl(*words, timeout=90)
            assert [installed.source(installed.client(name)) for name in others] == [SECOND, SECOND]
        finally:
            installed.cluster.kubectl("uncordon", node)
            drain(False)
            installed.cluster.apply([client_pod(f"client-{node}", node, "shop")])
            installed.cluster.kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        held = {FIRST, SECOND}
        installed.until("its new pod leaves", lambda: installed.source(installed.client(node)) in held, 60)
    assert {str(packet.src) for packet in seen.received() if packet.proto == "tcp"} <= held


def test_kubectl_drain_alone_waits_for_the_guard(installed: EgressIPs) -> None:
    """With the component nobody says anything to the agent but `kubectl drain`, which ends when the addresses are
    away.
    """
    installed.egress_ip(FIRST)
    node = installed.holders()[FIRST]
    other = next(name for name in HOLDERS if name != node)
    bystander = next(name for name in NODES if name not in HOLDERS)
    cluster, workloads = (
        installed.cluster,
        ("deployment/egress-router-drain-guard", "deployment/egress-router-controller"),
    )
    installed.components = ("guard",)
    cluster.kubectl("apply", "--validate=strict", "-k", str(installed.overlay()))
    installed.kubectl("rollout", "restart", workloads[1])
    for what in workloads:
        installed.kubectl("rollout", "status", what, "--timeout=120s")
    installed.until("it is held", lambda: set(installed.holders()) == {FIRST}, 60)
    try:
        with cluster.capture() as seen:
            words = ("drain", node, "--ignore-daemonsets", "--force", "--grace-period=1", "--timeout=150s")
            print(cluster.kubectl(*words, timeout=170))
            assert installed.holders() == {FIRST: other}
            status = json.loads(cluster.kubectl("get", "egressnode", node, "-o", "json"))["status"]
            assert status["drain"]["phase"] == "HandedOver"
            for name in (other, bystander):
                assert installed.source(installed.client(name)) == FIRST
        assert {str(packet.src) for packet in seen.received() if packet.proto == "tcp"} == {FIRST}
        guards = json.loads(
            installed.kubectl("get", "pods", "-l", "app.kubernetes.io/component=drain-guard", "-o", "json")
        )
        places = sorted(str(item["spec"].get("nodeName")) for item in guards["items"])
        assert places == ["None", other], "the new one waits for a node, and the other one stayed"
    finally:
        cluster.kubectl("uncordon", node)
        installed.until(
            "the agent is told",
            lambda: (
                not json.loads(cluster.kubectl("get", "egressnode", node, "-o", "json"))["metadata"].get("annotations")
            ),
            60,
        )
        installed.kubectl("delete", "deployment,poddisruptionbudget", "egress-router-drain-guard")
        installed.components = ()
        cluster.kubectl("apply", "-k", str(installed.overlay()))
        patch = '[{"op": "remove", "path": "/data/drain-on-cordon"}]'
        installed.kubectl("patch", "configmap", "egress-ips", "--type=json", "-p", patch, check=False)
        installed.kubectl("rollout", "restart", workloads[1])
        installed.kubectl("rollout", "status", workloads[1], "--timeout=120s")
        cluster.apply([client_pod(f"client-{node}", node, "shop")])
        cluster.kubectl("-n", "shop", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")


def test_a_cut_holder_is_replaced(installed: EgressIPs) -> None:
    """With two addresses the other one serves at once; the lost one comes to the node that is left."""
    installed.egress_ip(FIRST, SECOND)
    holders = installed.holders()
    assert set(holders.values()) == set(HOLDERS), "one each"
    host = installed.client("node-1")
    lost = installed.source(host)
    left = SECOND if lost == FIRST else FIRST
    installed.cluster.cut(holders[lost])
    try:
        took = installed.until("the other one serves", lambda: installed.source(host, timeout=0.5) == left, 30)
        print(f"{holders[lost]} was cut off: {left} serves after {took:.1f} s")
        assert took < 10
    finally:
        installed.cluster.heal(holders[lost])
    installed.until("both are held again", lambda: set(installed.holders()) == {FIRST, SECOND}, 120)
    installed.until("its own pod leaves", lambda: installed.source(installed.client(holders[lost])) in holders, 60)


def test_uninstalling_leaves_nothing(installed: EgressIPs) -> None:
    """The commands of docs/egress-ips-kubernetes.md, in their order; the last test of the module."""
    installed.egress_ip(FIRST)
    assert any(traces(installed, node)["tables"] != installed.before[node]["tables"] for node in NODES)
    page = (CHECKOUT / "docs/egress-ips-kubernetes.md").read_text()
    section = page[page.index("## Uninstalling") :].split("```")[1]
    commands = [line.split()[1:] for line in section.splitlines() if line.startswith("kubectl ")]
    assert len(commands) == 6
    for words in commands:
        # Paths are those of the checkout; what was installed is the overlay.
        named = {"deploy/egress-ips": str(installed.overlay())}
        real = [named.get(word, str(CHECKOUT / word) if word.startswith("deploy/") else word) for word in words]
        try:
            installed.cluster.kubectl(*real, timeout=180)
        except CommandFailed as error:
            raise AssertionError(f"{error}\n{installed.story()}") from error
    for node, before in installed.before.items():
        assert traces(installed, node) == before, node
    kinds = installed.cluster.kubectl("api-resources", "-o", "name")
    assert "egress-router.io" not in kinds
    for node in NODES:
        assert installed.source(installed.client(node)) == NODES[node]
