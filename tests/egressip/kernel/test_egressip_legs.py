"""A holder is up only when data gets there and back: each leg of the way is cut, and named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from egress_router.egressip.node.state import PROBE_PORT, TUNNEL_PORT
from lab import Host, Lab, NoReply
from tests.egressip.kernel.egress_cluster import WORLDS as _WORLDS
from tests.egressip.kernel.egress_cluster import EgressCluster, World, one_client, two_holders

pytestmark = pytest.mark.root
#: Until another holder has the traffic, and until the status has the name of the leg; seconds.
SOON = 2.0


class Legs:
    """A pod on the first node that leaves by ``holder``, and could by another one with ``other``."""

    def __init__(self, cluster: EgressCluster) -> None:
        self.cluster = cluster
        self.client, self.first, self.other, self.holder = one_client(cluster)
        self.node = cluster.lab.nodes[0]

    def source(self) -> str:
        try:
            return self.cluster.source_of(self.client, timeout=0.1)
        except NoReply:
            return ""

    def names(self, words: str) -> bool:
        return any(words in text and self.holder.name in text for text in self.cluster.ask(self.node)["problems"])

    def figure(self, leg: str) -> str:
        host = str(self.node.addresses[self.cluster.world.underlay])
        url = f"http://{f'[{host}]' if ':' in host else host}:9910/metrics"
        wanted = f'holder_leg_up{{leg="{leg}",node="{self.holder.name}"}}'
        text = self.node.run(["curl", "-sg", url]).stdout
        return next(line.split()[-1] for line in text.splitlines() if wanted in line)

    def cut(self, what: str, leg: str, words: str, cut: Callable[[], object], mend: Callable[[], object]) -> None:
        """Cut a leg: the other holder has the traffic, it is named, and comes back when it is mended."""
        self.cluster.until(lambda: self.source() == self.first)
        assert not self.cluster.ask(self.node)["problems"], "positive control"
        cut()
        start = time.monotonic()
        self.cluster.until(lambda: self.source() == self.other, 5)
        moved = time.monotonic() - start
        self.cluster.until(lambda: self.names(words), 5)
        named = time.monotonic() - start
        assert self.figure(leg) == "0.0"
        mend()
        self.cluster.until(lambda: self.source() == self.first)
        self.cluster.until(lambda: not self.cluster.ask(self.node)["problems"])
        self.cluster.until(lambda: self.figure(leg) == "1.0")
        print(f"{what}: {moved * 1000:.0f} ms until traffic was back, {named * 1000:.0f} ms until it was named")
        assert max(moved, named) < SOON, what


@pytest.fixture(scope="module", params=_WORLDS, ids=str)
def legs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Legs]:
    world: World = request.param
    with Lab(nodes=3, shape=world.shape) as lab:
        yield Legs(two_holders(lab, tmp_path_factory.mktemp("legs") / "state", world))


def firewall(node: Host, rule: str) -> Callable[[], object]:
    hook = "type filter hook input priority raw - 10; policy accept;"
    return lambda: node.nft(f"table inet foreign {{\nchain input {{\n{hook}\n{rule}\n}}\n}}")


def opened(node: Host) -> Callable[[], object]:
    return lambda: node.nft("delete table inet foreign")


def test_a_firewall_drops_the_tunnel(legs: Legs) -> None:
    for node in (legs.holder,):
        rule = f"udp dport {TUNNEL_PORT} drop"
        legs.cut("tunnel", "tunnel", f"UDP port {TUNNEL_PORT}", firewall(node, rule), opened(node))


def test_full_packets_do_not_fit(legs: Legs) -> None:
    rule = f"udp dport {TUNNEL_PORT} meta length > 1400 drop"
    legs.cut("MTU", "full_size", "smaller MTU", firewall(legs.holder, rule), opened(legs.holder))


def test_answers_do_not_come_back(legs: Legs) -> None:
    """They go to an address among the pods of this node, as answers to pods do."""
    if legs.cluster.world.shape != "bridge":
        pytest.skip("no address among the pods")
    node = legs.node
    address = next(a for a in node.ip("-4 -o addr show").split() if a.startswith("198.51.100.")).partition("/")[0]
    rule = f"ip saddr {legs.holder.addresses[4]} ip daddr {address} drop"
    legs.cut("the way back", "back", "may not arrive", firewall(node, rule), opened(node))


def test_an_agent_that_says_nothing(legs: Legs) -> None:
    """It goes on carrying what it has, and that it is silent is named: the port may be closed."""
    node = legs.holder
    firewall(node, f"udp dport {PROBE_PORT} drop")()
    start = time.monotonic()
    legs.cluster.until(lambda: legs.names(f"says nothing on UDP port {PROBE_PORT}"), 5)
    print(f"silent agent: named after {(time.monotonic() - start) * 1000:.0f} ms")
    assert time.monotonic() - start < 3.0
    assert legs.source() == legs.first
    assert legs.figure("agent") == "0.0"
    opened(node)()
    legs.cluster.until(lambda: not legs.cluster.ask(legs.node)["problems"])


def test_the_tunnel_of_the_pods_node_is_made_anew(legs: Legs) -> None:
    """Probes go into the new one; the holder is used all the time but for moments."""
    for _ in range(3):
        legs.node.ip("link del egressvx0")
        legs.cluster.until(lambda: legs.source() == legs.first, 5)
    legs.cluster.until(lambda: not legs.cluster.ask(legs.node)["problems"])
    assert legs.figure("tunnel") == "1.0"
