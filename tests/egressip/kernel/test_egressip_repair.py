"""What somebody takes away from rules, routes, tunnel, neighbours and addresses comes back at once."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from egress_router.egressip.node.state import NODE_PROTOCOL, TUNNEL
from egress_router.egressip.node.tunnel import tunnel_mac
from lab import Host, Lab
from tests.egressip.kernel.egress_cluster import (
    FIRST,
    FIRST6,
    SERVICE,
    SERVICE6,
    WORLDS,
    EgressCluster,
    World,
    talking,
)

pytestmark = pytest.mark.root

#: Without a repair by notices it takes five seconds until the agent looks, or for ever.
WORST, USUAL = 1.0, 0.1


class Watched:
    """A pod on the first node that leaves by the second, and talks to the outside in both families without a pause."""

    def __init__(self, cluster: EgressCluster) -> None:
        lab = cluster.lab
        cluster.namespace("toto", FIRST, FIRST6)
        cluster.holds(lab.nodes[1], FIRST, FIRST6)
        cluster.holds(lab.nodes[2])
        self.cluster = cluster
        self.pod = cluster.pod("client", "toto", 0)
        cluster.start()
        cluster.settle()
        self.times: dict[str, float] = {}

    def repairs(self, node: Host) -> int:
        return self.cluster.logs[node.name].read_text().count("put back what")

    def leaves_as(self, service: str, source: str) -> bool:
        return self.cluster.source_of(self.pod, service, timeout=0.05) == source

    def tamper(self, node: Host, what: str, action: Callable[[], object]) -> None:
        """Do ``action`` and wait until both families have an answer to what was asked after it."""
        before = self.repairs(node)
        action()
        done = time.monotonic()
        for service, source in ((SERVICE, FIRST), (SERVICE6, FIRST6)):
            self.cluster.until(partial(self.leaves_as, service, source), 4)
        self.times[what] = time.monotonic() - done
        self.cluster.until(lambda: self.repairs(node) > before, 1)
        self.cluster.until(lambda: self.cluster.ask(node)["ready"])


@pytest.fixture(scope="module", params=WORLDS, ids=str)
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    world: World = request.param
    with Lab(nodes=3, shape=world.shape) as lab:
        for service in (SERVICE, SERVICE6):
            lab.echo(service, tcp=[80], udp=53)
        yield Watched(EgressCluster(lab, tmp_path_factory.mktemp("repair") / "state", world))


def flush_rules(node: Host, family: int) -> None:
    for rule in json.loads(node.ip(f"-{family} -j rule")):
        if rule["priority"] == 90:
            node.ip(f"-{family} rule del pref 90 fwmark {rule['fwmark']}/{rule['fwmask']}")


def has_address(node: Host, ip: str) -> bool:
    return f"{ip}/" in node.ip("addr show dev eth0")


def test_somebody_who_does_it_again_and_again(watched: Watched) -> None:
    """He is named, the node is not ready meanwhile, and it goes on putting back."""
    cluster = watched.cluster
    near = cluster.lab.nodes[0]
    assert not cluster.ask(near)["problems"], "positive control"
    with ExitStack() as stack:
        heard = stack.enter_context(talking(partial(cluster.source_of, watched.pod, timeout=0.05)))
        for _ in range(6):
            flush_rules(near, 4)
            cluster.until(lambda: "fwmark" in near.ip("-4 rule"))
            time.sleep(0.2)
        problems = cluster.ask(near)["problems"]
        assert any("again and again" in text and "rule 90" in text for text in problems), problems
        assert {text for _, text in heard} <= {FIRST, ""}
    host = str(near.addresses[cluster.world.underlay])
    reading = near.run(["curl", "-sg", f"http://{f'[{host}]' if ':' in host else host}:9910/readyz"])
    assert "again and again" in reading.stdout


def test_at_a_pods_node_and_at_a_gateway(watched: Watched) -> None:
    cluster = watched.cluster
    lab = cluster.lab
    near, gateway = lab.nodes[0], lab.nodes[1]
    host_ip = str(gateway.addresses[cluster.world.underlay])
    with lab.capture() as capture:
        for family in (4, 6):
            watched.tamper(near, f"IPv{family} rules", partial(flush_rules, near, family))
            flush = f"-{family} route flush proto {NODE_PROTOCOL} table all"
            watched.tamper(near, f"IPv{family} routes", partial(near.ip, flush))
            flush = f"-{family} neigh flush dev {TUNNEL} nud permanent"
            watched.tamper(near, f"IPv{family} neighbours", partial(near.ip, flush))
        fdb = ["bridge", "fdb", "del", tunnel_mac(host_ip), "dev", TUNNEL, "dst", host_ip]
        watched.tamper(near, "forwarding entries", partial(near.run, fdb))
        for name, node in (("pod's node", near), ("gateway", gateway)):
            watched.tamper(node, f"{name}: down", partial(node.ip, f"link set {TUNNEL} down"))
            if node is near:
                # At a gateway that uses no other one, nothing hangs on the device that this takes away.
                both = [f"link set {TUNNEL} down", f"link set {TUNNEL} up"]
                watched.tamper(node, f"{name}: down and up", partial(node.ip_batch, both))
            watched.tamper(node, f"{name}: deleted", partial(node.ip, f"link del {TUNNEL}"))
            watched.tamper(node, f"{name}: address", partial(node.ip, f"addr flush dev {TUNNEL}"))
            parameter = f"net.ipv4.conf.{TUNNEL}.rp_filter"
            watched.tamper(node, f"{name}: rp_filter", partial(node.sysctl, parameter, 1))
        assert {str(packet.src) for packet in capture.outgoing()} == {FIRST, FIRST6}
        assert not capture.leaks(allowed={FIRST, FIRST6})
    for what, seconds in watched.times.items():
        print(f"{what}: {seconds * 1000:.0f} ms until both families had an answer")
    assert max(watched.times.values()) < WORST, watched.times
    assert statistics.median(watched.times.values()) < USUAL, watched.times
    assert "Traceback" not in cluster.text()


def test_an_egress_ip_that_is_taken_away(watched: Watched) -> None:
    """It is asked for again before it is used: somebody else may have it by now."""
    cluster = watched.cluster
    gateway = cluster.lab.nodes[1]
    for ip, length in ((FIRST, 32), (FIRST6, 128)):
        gateway.ip(f"addr del {ip}/{length} dev eth0")
        took = cluster.until(partial(has_address, gateway, ip), 4)
        assert took < 2.5, "it waited for the check every five seconds"
        service = SERVICE6 if ":" in ip else SERVICE
        cluster.until(partial(watched.leaves_as, service, ip))
