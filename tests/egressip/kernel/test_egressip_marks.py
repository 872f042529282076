"""Other programs' marks: what they use of packets and connections is theirs, and ours leads nobody astray.

The rules of others are written from their documentation and defaults: Felix (IptablesMarkMask 0xffff0000), kube-router
(network policies), Cilium (identities in bits 16 to 31), Tailscale (0xff0000), wg-quick(8), Antrea (bits 30 and 31).
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import pytest

from egress_router.egressip.node.nft_rules import ND_TARGET
from lab import Host, Lab, NoReply
from tests.egressip.kernel.egress_cluster import WORLDS, EgressCluster, World, talking
from tests.egressip.kernel.egress_scene import FAMILY, SERVICES, TOTO, Flow, Scene, overlay

pytestmark = pytest.mark.root

FORMER = "tests.support.former_marks"
#: nft's names of addresses, by IP version.
IP = {4: "ip", 6: "ip6"}


class Neighbourhood:
    """A cluster in which toto leaves by the second node; agents can start anew with other options. ``program`` is the
    module that runs them.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.cluster: EgressCluster = scene.cluster
        self.lab: Lab = scene.lab
        self.node: Host = scene.lab.nodes[0]
        self.far = scene.cluster.pod("far", "plain", 2)

    def restart(self, program: str = "egress_router", **options: str) -> None:
        """Start all agents anew; wait until they are ready."""
        for agent in self.cluster.agents.values():
            agent.terminate()
        for agent in self.cluster.agents.values():
            agent.wait(10)
        self.cluster.program = (program,)
        self.cluster.start(**options)
        self.cluster.settle()

    def source(self, pod: Host, version: int) -> str:
        """Return the source that the service sees of a datagram, "" without an answer."""
        with suppress(NoReply):
            return self.cluster.source_of(pod, SERVICES[version], timeout=0.3)
        return ""

    def tcp_source(self, pod: Host, version: int) -> str:
        with suppress(NoReply, OSError):
            return self.lab.tcp(pod, SERVICES[version], 80, timeout=1.0).split()[0]
        return ""

    @contextmanager
    def rules(
        self, version: int, *, nft: str = "", iptables: tuple[str, ...] = (), ip: tuple[str, ...] = ()
    ) -> Iterator[None]:
        """Give the pod's node rules of another program, and take them away. ``iptables`` and ``ip`` are arguments
        without -A and ``add``; ``nft`` is the body of a table.
        """
        tool = "iptables" if version == 4 else "ip6tables"
        added: list[list[str]] = []
        rules: list[str] = []
        try:
            if nft:
                self.node.nft(f"table inet foreign {{\n{nft}\n}}")
            for rule in iptables:
                table, chain, *rest = rule.split()
                self._run([tool, "-w", "-t", table, "-I", chain, *rest])
                added.append([tool, "-w", "-t", table, "-D", chain, *rest])
            for rule in ip:
                self._run(["ip", f"-{version}", "rule", "add", *rule.split()])
                rules.append(rule)
            yield
        finally:
            if nft:
                self.node.nft("delete table inet foreign")
            for command in added:
                self._run(command)
            for rule in rules:
                self._run(["ip", f"-{version}", "rule", "del", *rule.split()])

    def _run(self, command: list[str]) -> None:
        self.node.run(command, check=True)


@pytest.fixture(scope="module", params=WORLDS, ids=str)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbourhood]:
    world: World = request.param
    with Lab(nodes=3, shape=world.shape) as lab:
        yield Neighbourhood(Scene(lab, tmp_path_factory.mktemp("marks") / "state", world))


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


def felix(place: Neighbourhood, version: int) -> str:
    """What Felix does to pods' packets with bits 16 to 19: it marks what comes from pods and checks the way back with
    that mark, and what a policy has accepted gets bit 16 before it is let through.
    """
    client, ip = place.scene.client.addresses[version], IP[version]
    return f"""
        chain raw {{
            type filter hook prerouting priority raw + 5;
            meta mark set meta mark & 0xfff0ffff
            {ip} saddr {client} meta mark set meta mark | 0x00040000
            meta mark & 0x00040000 == 0x00040000 fib saddr . mark . iif oif missing drop
        }}
        chain endpoints {{
            type filter hook forward priority filter;
            meta mark set meta mark & 0xfff1ffff
            {ip} saddr {client} jump workload
        }}
        chain workload {{
            ct state established accept
            meta mark set meta mark & 0xfffeffff
            udp dport 53 meta mark set meta mark | 0x00010000
            icmp type echo-request meta mark set meta mark | 0x00010000
            icmpv6 type echo-request meta mark set meta mark | 0x00010000
            meta mark & 0x00010000 == 0x00010000 accept
            drop
        }}
    """


def pings(pod: Host, target: Host, version: int) -> bool:
    return pod.run(["ping", f"-{version}", "-c1", "-W1", str(target.addresses[version])], check=False).returncode == 0


def test_what_felix_accepts_is_no_slot(place: Neighbourhood, version: int) -> None:
    """The bit on what it accepted is inherited by its own tunnel's packets."""
    far = place.far
    ends = (place.scene.client, place.node), (far, place.lab.nodes[2])
    with overlay(*ends, version), place.rules(version, nft=felix(place, version)):
        for program, works in ((FORMER, False), ("egress_router", True)):
            place.restart(program)
            assert pings(place.scene.client, far, version) is works, program
            if works:
                assert place.source(place.scene.client, version) == TOTO[version]
                assert place.tcp_source(place.scene.client, version) == "", "its policy denies TCP"


def test_felix_may_use_the_same_bits_for_its_reverse_path_check(place: Neighbourhood, version: int) -> None:
    """Its mark of packets from pods is that of a slot (here: the first)."""
    with place.rules(version, nft=felix(place, version)):
        for program, works in ((FORMER, False), ("egress_router", True)):
            place.restart(program, mark_slots="0x0ffc0000")
            if works:
                # Other slots than before: for half a second there may be no answer, which is not what is asked here.
                place.cluster.until(lambda: place.source(place.scene.client, version) != "", 3)
            assert (place.source(place.scene.client, version) == TOTO[version]) is works, program


def kube_router(pod: Host, version: int) -> tuple[str, ...]:
    """An egress NetworkPolicy that allows UDP: what it allows is marked with bit 16, what is not so is rejected."""
    address = pod.addresses[version]
    # Inserted one after the other, so the last one is the first that a packet meets.
    return (
        f"filter FORWARD -s {address} -m conntrack --ctstate NEW -m mark ! --mark 0x10000/0x10000 -j REJECT",
        f"filter FORWARD -s {address} -p udp --dport 53 -j MARK --set-xmark 0x10000/0x10000",
    )


def test_what_kube_router_denies_stays_denied(place: Neighbourhood, version: int) -> None:
    client, local = place.scene.client, place.scene.local
    with place.rules(version, iptables=kube_router(client, version)):
        for program, allowed in ((FORMER, TOTO[version]), ("egress_router", "")):
            place.restart(program)
            assert place.source(client, version) == TOTO[version]
            assert place.tcp_source(client, version) == allowed, program
    assert place.tcp_source(client, version) == TOTO[version], "positive control"
    assert place.tcp_source(local, version) == TOTO[version]


CILIUM_MARK = "0x20000000/0xf0000f00"


def test_an_identity_of_cilium_is_no_slot(place: Neighbourhood, version: int) -> None:
    """Identities take bits 16 to 31, beside a number in bits 8 to 11 that is never 0. An identity that reads like the
    first slot leads astray where these are not looked at. (Cilium marks by BPF, so no agent can see it in rules.)
    """
    marked = f"""
        chain identities {{
            type filter hook prerouting priority raw - 5;
            {IP[version]} saddr {place.scene.plain.addresses[version]} meta mark set 0x20010f00
            {IP[version]} saddr {place.scene.client.addresses[version]} meta mark set 0x20020f00
        }}
    """
    node = str(place.node.addresses[version])
    for mark, works in (("0x20000000/0xf0000000", False), (CILIUM_MARK, True)):
        place.restart(mark=mark)
        with place.rules(version, nft=marked, ip=("fwmark 0x200/0xf00 lookup 2004 priority 9",)):
            assert place.source(place.scene.client, version) == TOTO[version]
            assert (place.source(place.scene.plain, version) == node) is works, mark


def test_tailscale_restores_its_bits_from_connections(place: Neighbourhood, version: int) -> None:
    """Its subnet routers accept and masquerade what has 0x40000, and it restores 0xff0000 from the connection. Its
    bypass rule leads to the main table and then nowhere.
    """
    restore = "-j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000"
    rules = (
        "filter FORWARD -m conntrack --ctstate NEW -p tcp -j REJECT",
        "filter FORWARD -m mark --mark 0x40000/0xff0000 -j ACCEPT",
        f"mangle PREROUTING -m conntrack --ctstate ESTABLISHED,RELATED {restore}",
        "nat POSTROUTING -m mark --mark 0x40000/0xff0000 -j MASQUERADE",
    )
    ways = ("fwmark 0x80000/0xff0000 lookup main priority 5210", "fwmark 0x80000/0xff0000 unreachable priority 5250")
    client = place.scene.client
    with place.rules(version, iptables=rules, ip=ways):
        for program, source in ((FORMER, ""), ("egress_router", TOTO[version])):
            # The first slot is the bit of its subnet routers.
            place.restart(program, mark_slots="0x0ffc0000")
            assert place.source(client, version) == source, program
            assert place.tcp_source(client, version) == "", f"{program}: the node's own rules deny it"
    assert place.tcp_source(client, version) == TOTO[version], "positive control"


def test_wg_quick_restores_whole_marks(place: Neighbourhood, version: int) -> None:
    """So replies come with the mark that led the questions into the tunnel."""
    rules = (
        "mangle POSTROUTING -m mark --mark 0xca6c -p udp -j CONNMARK --save-mark",
        "mangle PREROUTING -p udp -j CONNMARK --restore-mark",
    )
    ways = ("not fwmark 0xca6c lookup 51820 priority 32764", "lookup main suppress_prefixlength 0 priority 32763")
    client = place.scene.client
    with place.rules(version, iptables=rules, ip=ways):
        for program, works in ((FORMER, False), ("egress_router", True)):
            place.restart(program)
            assert (place.source(client, version) == TOTO[version]) is works, program
            assert place.tcp_source(client, version) == TOTO[version]


def test_antrea_and_others_keep_bits_30_and_31(place: Neighbourhood, version: int) -> None:
    """What is not of a pod with egress IPs keeps every bit, and what somebody marks behind our decision stays."""
    seen = f"""
        counter whole {{ }}
        counter later {{ }}
        chain marks {{
            type filter hook prerouting priority raw - 5;
            {IP[version]} saddr {place.scene.plain.addresses[version]} meta mark set 0xc0000001
        }}
        chain forward {{
            type filter hook forward priority filter;
            meta mark == 0xc0000001 counter name whole
            {IP[version]} saddr {place.scene.client.addresses[version]} meta mark set meta mark | 0xc0000000
        }}
        chain post {{
            type filter hook postrouting priority 200;
            meta mark & 0xf0000000 == 0xc0000000 oifname "egressvx0" counter name later
        }}
    """
    place.restart()
    with place.rules(version, nft=seen):
        assert place.source(place.scene.plain, version) == str(place.node.addresses[version])
        assert place.source(place.scene.client, version) == TOTO[version]
        for name in ("whole", "later"):
            listed = place.node.run(["nft", "list", "counter", "inet", "foreign", name]).stdout
            assert "packets 0" not in listed, listed


def test_marks_that_are_certain_to_collide_end_the_start(place: Neighbourhood, version: int) -> None:
    """With the code of a configuration that cannot be used; what only shares bits is named in the log."""
    node, cluster = place.node, place.cluster
    with place.rules(version, ip=("fwmark 0x80000/0xff0000 lookup main priority 5210",)):
        place.restart()
        log = cluster.logs[node.name].read_text()
        assert "another program uses bits of our marks: rule 5210" in log
        with place.rules(version, ip=("fwmark 0x20000000/0xf0000000 lookup 77 priority 80",)):
            agent = cluster.agents[node.name]
            agent.terminate()
            agent.wait(10)
            cluster.start(node)
            assert cluster.agents[node.name].wait(20) == 78
            log = cluster.logs[node.name].read_text().removeprefix(log)
            assert "EGRESS_MARK" in log
            assert "rule 80: from all fwmark 0x20000000/0xf0000000" in log
            assert place.source(place.scene.client, version) == TOTO[version], "what is in the kernel goes on"
    cluster.start(node)
    cluster.settle()


#: Names of sets and chains in tables of agents before they were values.
FORMER_NAMES = {
    "egress_ips": "held",
    "egress_pods": "egress",
    "translated_pods": "served",
    "nodes": "peers",
    "tunnelled_pods": "far",
    "flushed_pods": "recent",
    "allowed_pairs": "allowed",
    "path": "way",
    "local_pods": "pods",
    "known_paths": "stay",
    "undrained_paths": "keep",
    "local_gateway": "own",
    "node_address": "normal",
    "no_gateway": "dropped",
    # Connections were led on where new ones got their path.
    "restore_path": "lead",
    "known_connected": "leave4",
    "from_tunnel": "tunnelled",
    "inbound": "arrive",
    "select_path": "choose",
    "verify_source": "guard",
}

COUNT_MARKED = """
    from egress_router.net.conntrack import Conntrack
    with Conntrack() as conntrack:
        print(len(conntrack.marked({}, {})))
"""


def marked(node: Host, mark: int, mask: int) -> int:
    return int(node.run([sys.executable, "-c", textwrap.dedent(COUNT_MARKED).format(mark, mask)]).stdout)


@pytest.mark.parametrize("names", ["names of today", "former names"])
def test_an_agent_takes_over_from_one_with_other_marks(place: Neighbourhood, version: int, names: str) -> None:
    """Connections by the tunnel and by the node itself go on, nothing leaves with another source, and slots stay."""
    cluster, scene, node, holder = place.cluster, place.scene, place.node, place.lab.nodes[1]
    place.restart(FORMER)
    slots = node.ip(f"-{version} rule")
    assert "/0xfff0000 " in slots, "positive control"
    flows = [Flow(pod, version) for pod in (scene.client, scene.local)]
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(pod, version)) for pod in (scene.client, scene.local)]
        capture = stack.enter_context(
            scene.leaving_with(*TOTO.values(), *(str(a) for n in place.lab.nodes for a in n.addresses.values()))
        )
        assert all(flow.has(TOTO[version]) for flow in flows)
        assert all(stream.talks() for stream in streams)
        for agent in cluster.agents.values():
            agent.kill()
            agent.wait(10)
        if names == "former names":
            for one in place.lab.nodes:
                with_former_names(one)
        assert marked(node, 0x10000, 0x0FFF0000), "positive control"
        heard = stack.enter_context(talking(flows[0].source))
        cluster.program = ("egress_router",)
        cluster.start()
        cluster.settle()
        # The streams have been silent: no packet has given them a mark.
        assert marked(node, 0x20010000, 0xFFFF0000) >= 2
        assert marked(holder, 0x2FFF0000, 0xFFFF0000) >= 2
        assert marked(node, 0x00010000, 0xFFFF0000) == 0
        assert all(flow.has(TOTO[version]) for flow in flows)
        assert all(stream.talks() for stream in streams)
        assert {text for _, text in heard} <= {TOTO[version], ""}
        assert not [p for p in capture.outgoing() if str(p.src) not in {*TOTO.values()}]
    assert "/0xffff0000 " in node.ip(f"-{version} rule")
    assert "/0xfff0000 " not in node.ip(f"-{version} rule")
    print(f"{sum(not text for _, text in heard)} of {len(heard)} datagrams without an answer")


def with_former_names(node: Host) -> None:
    """Give the tables of a node, as they are, the names that they once had."""
    for family in ("inet", "arp"):
        text = node.run(["nft", "list", "table", family, "egress_node"]).stdout
        for name, former in FORMER_NAMES.items():
            text = re.sub(rf"(?<![\w.]){name}([46]?)(?=[ ,;}}\n])", rf"{former}\1", text)
        text = re.sub(r"\bgateway_(\d+)", r"to_\1", text)
        # nft 1.1.3 lists the target of a neighbour solicitation so, and does not read that back for a set of our kind.
        text = text.replace("icmpv6 taddr @", f"{ND_TARGET} @")
        node.nft(f"delete table {family} egress_node\n{text}")


class Stream(AbstractContextManager["Stream"]):
    """A TCP connection of a pod to the service, which answers what it is told."""

    def __init__(self, pod: Host, version: int) -> None:
        self._socket = pod.socket(FAMILY[version])
        self._socket.settimeout(3)
        self._socket.connect((SERVICES[version], 80))

    def talks(self) -> bool:
        self._socket.sendall(b"x\n")
        return bool(self._socket.recv(300))

    def __exit__(self, *_: object) -> None:
        self._socket.close()
