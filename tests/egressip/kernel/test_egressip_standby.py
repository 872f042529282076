"""An egress IP goes to its standby: the same source address outside, and open connections go on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from egress_router.egressip.controller.leader_election import RECORD_FILE
from lab import Host, Lab
from tests.egressip.kernel.egress_cluster import FIRST, FIRST6, WORLDS, EgressCluster, World, talking
from tests.egressip.kernel.egress_scene import SERVICES, TOTO
from tests.egressip.kernel.standing_traffic import Traffic

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

QUICK = {"probe_interval": "0.1", "hold_down": "1"}
EVERY_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)


@pytest.fixture
def egress(make_lab: Callable[..., Lab], world: World, tmp_path: Path) -> EgressCluster:
    """Nodes 1 and 2 may be given the addresses of toto; node 0 has the client and the controller."""
    lab = make_lab(nodes=3, shape=world.shape)
    for service in SERVICES.values():
        lab.echo(service, tcp=[80], udp=53)
    egress = EgressCluster(lab, tmp_path / "state", world)
    for node in lab.nodes[1:]:
        egress.change("HostSubnet", egress.name(node), egressCIDRs=["192.0.2.40/29", "2001:db8:2::40/124"])
    egress.namespace("toto", FIRST, FIRST6)
    return egress


def recorded(egress: EgressCluster) -> dict[str, tuple[str, str]]:
    """Return the holder and the standby of each address."""
    path = egress.state / RECORD_FILE
    found = json.loads(path.read_text()) if path.exists() else {"assignment": {}}
    holders = {ip: node for node, ips in found["assignment"].items() for ip in ips}
    return {ip: (node, found.get("standbys", {}).get(ip, "")) for ip, node in holders.items()}


def begin(egress: EgressCluster) -> dict[int, tuple[Host, Host]]:
    """Start everything; return the holder and the standby of each family's address."""
    egress.start()
    egress.prefix = ["env", "EGRESS_STANDBY=on"]
    egress.start_controller("controller", egress.lab.nodes[0], **QUICK)
    egress.prefix = []
    egress.until(lambda: all(standby for _, standby in recorded(egress).values()) and len(recorded(egress)) == 2)
    names = {node.name: node for node in egress.lab.nodes}
    pairs = {version: recorded(egress)[ip] for version, ip in TOTO.items()}
    egress.until(lambda: all(TOTO[version] in egress.ask(names[held])["held"] for version, (held, _) in pairs.items()))
    egress.settle()
    return {version: (names[one], names[other]) for version, (one, other) in pairs.items()}


def kept(egress: EgressCluster, node: Host) -> int:
    """Return how many connections a node keeps for others."""
    count: int = egress.ask(node)["standby"]["kept"]
    return count


def keeps(egress: EgressCluster, node: Host, count: int) -> bool:
    return kept(egress, node) >= count


def leaves_right(egress: EgressCluster, pod: Host, version: int) -> bool:
    return egress.source_of(pod, SERVICES[version], timeout=0.2) == TOTO[version]


def went_on(traffic: Traffic, moment: float) -> bool:
    """Return whether everything has had an answer since, or something has ended."""
    return traffic.all_answered_since(moment) or bool(traffic.lost)


def told(traffic: Traffic, version: int) -> str:
    return ", ".join(
        f"{1000 * traffic.silence(version, streams=streams):.0f} ms ({name})"
        for name, streams in (("UDP", False), ("TCP", True))
    )


def cut_power(egress: EgressCluster, node: Host) -> float:
    """Have a node end from one moment to the other; return when."""
    egress.lab.unplug(node)
    # What was on its way may still be answered, and nothing else.
    at = time.monotonic()
    egress.agents[node.name].kill()
    return at


def boot(egress: EgressCluster, node: Host) -> None:
    """Have it come back as a kernel that has just started does, with nothing of before."""
    egress.agents[node.name].wait()
    node.run(["nft", "flush", "ruleset"])
    node.run(["conntrack", "-F"], check=False)
    for ip in TOTO.values():
        node.run(["ip", "addr", "del", ip, "dev", "eth0"], check=False)
    egress.lab.plug(node)
    egress.start(node)


def sources_are_right(traffic: Traffic) -> bool:
    return all(traffic.sources(version) == {ip} for version, ip in TOTO.items())


@pytest.mark.parametrize(("world", "version"), [(WORLDS[0], 4), (WORLDS[1], 6)], ids=str)
def test_a_holder_without_power_loses_no_connection(egress: EgressCluster, version: int) -> None:
    """Neither those of pods elsewhere, nor those of pods on the standby's own node."""
    client = egress.pod("client", "toto", 0)
    holder, standby = begin(egress)[version]
    beside = egress.pod("beside", "toto", egress.lab.nodes.index(standby))
    egress.until(partial(leaves_right, egress, beside, version))
    with Traffic([client, beside], 10, 5) as traffic, egress.lab.capture() as capture:
        egress.until(partial(keeps, egress, standby, 30))
        traffic.forget_silence()
        at = cut_power(egress, holder)
        egress.until(partial(went_on, traffic, at + 0.3), timeout=20)
        print(f"{egress.world}, IPv{version}: no answer for {told(traffic, version)}")
        assert traffic.lost == []
        assert sources_are_right(traffic)
        assert recorded(egress)[TOTO[version]][0] == standby.name
        assert not capture.leaks(allowed=TOTO.values())
    assert egress.ask(standby)["standby"]["taken_over"] >= 30


@EVERY_WORLD
def test_a_drain_waits_for_no_connection_and_loses_nothing(egress: EgressCluster) -> None:
    """Neither connections and datagrams of pods elsewhere, nor those of pods on either node, nor what begins meanwhile;
    and what went stays when the node is back.
    """
    client = egress.pod("client", "toto", 0)
    version = egress.world.underlay
    holder, standby = begin(egress)[version]
    own, beside = (
        egress.pod(name, "toto", egress.lab.nodes.index(node)) for name, node in (("own", holder), ("beside", standby))
    )
    for pod in (own, beside):
        egress.until(partial(leaves_right, egress, pod, version))
    begins = talking(partial(egress.source_of, client, SERVICES[version]))
    with Traffic([client, own, beside], 10, 3) as traffic, begins as begun, egress.lab.capture() as capture:
        egress.until(partial(keeps, egress, standby, 39))
        traffic.unanswered()
        traffic.forget_silence()
        command = [sys.executable, "-m", "egress_router", "node", "drain", "--socket", str(egress.socket_of(holder))]
        at = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)
        took = time.monotonic() - at
        egress.until(partial(went_on, traffic, at + took), timeout=20)
        silence, unanswered = told(traffic, version), traffic.unanswered()
        print(f"{egress.world}: drained in {took:.1f} s, no answer for {silence}; {unanswered} datagrams without one")
        assert traffic.lost == []
        assert (done.returncode, done.stdout) == (0, "handed over\n"), done.stderr
        assert "connections go on by standbys" in done.stderr
        assert sources_are_right(traffic)
        assert recorded(egress)[TOTO[version]][0] == standby.name
        assert unanswered == 0
        assert {source for _, source in begun} == {TOTO[version]}, "what begins is answered as well"
        at = time.monotonic()
        egress.ask(holder, "undrain")
        egress.until(partial(went_on, traffic, at + 1.0))
        assert traffic.lost == []
        assert recorded(egress)[TOTO[version]][0] == standby.name
        assert not capture.leaks(allowed=TOTO.values())


@pytest.mark.parametrize("world", WORLDS[:1], ids=str)
def test_what_the_objects_do_not_allow_any_more_does_not_go_on(egress: EgressCluster) -> None:
    """The pod went to another namespace before its address did to another node: nothing of it is made there."""
    client, other = egress.pod("client", "toto", 0), egress.pod("other", "toto", 0)
    holder, standby = begin(egress)[4]
    with Traffic([client, other], 5, 0) as traffic, egress.lab.capture() as capture:
        egress.until(partial(keeps, egress, standby, 10))
        egress.namespace("rival")
        # The standby alone hears of it: the holder is gone before.
        at = cut_power(egress, holder)
        egress.tell(other, "other", "rival", 0)
        egress.until(lambda: recorded(egress)[FIRST][0] == standby.name)
        egress.until(lambda: FIRST in egress.ask(standby)["held"])
        assert egress.ask(standby)["standby"]["taken_over"] == 5
        fine = [one for one in traffic.all if one.version == 4][:5]
        egress.until(lambda: all(one.answered_at > at + 0.3 for one in fine))
        # Its pod is one without egress IPs now; nothing of it leaves with the address.
        sent = str(other.addresses[4])
        assert sent not in egress.lab.nodes[2].run(["conntrack", "-L", "-q", FIRST], check=False).stdout
        assert not [packet for packet in capture.outgoing() if str(packet.src) == sent]


@pytest.mark.on_demand
@pytest.mark.timeout(900)
@EVERY_WORLD
def test_twenty_cuts_with_two_hundred_connections(egress: EgressCluster) -> None:
    """And each time the node that was cut comes back, and stands by for the next one."""
    client = egress.pod("client", "toto", 0)
    begin(egress)
    version = egress.world.underlay
    names = {node.name: node for node in egress.lab.nodes}
    found = []
    with Traffic([client], 100, 25) as traffic, egress.lab.capture() as capture:
        for _ in range(20):
            holder, standby = (names[name] for name in recorded(egress)[TOTO[version]])
            egress.until(partial(keeps, egress, standby, 125), timeout=20)
            time.sleep(0.5)
            traffic.forget_silence()
            at = cut_power(egress, holder)
            egress.until(partial(went_on, traffic, at + 0.3), timeout=30)
            found.append([traffic.silence(version, streams=streams) for streams in (False, True)])
            assert traffic.lost == []
            boot(egress, holder)
            egress.until(lambda: bool(recorded(egress)[TOTO[version]][1]), timeout=40)
        assert sources_are_right(traffic)
        assert not capture.leaks(allowed=TOTO.values())
    for name, each in zip(("UDP", "TCP"), zip(*found, strict=True), strict=True):
        print(f"{egress.world}, {name}: median {1000 * median(each):.0f} ms, longest {1000 * max(each):.0f} ms")


@pytest.mark.on_demand
@pytest.mark.timeout(900)
@EVERY_WORLD
def test_twenty_drains_with_two_hundred_connections(egress: EgressCluster) -> None:
    """Of a pod elsewhere, and of pods on either node; each time the other one is the holder."""
    client = egress.pod("client", "toto", 0)
    begin(egress)
    version = egress.world.underlay
    pods = [client, *(egress.pod(name, "toto", node) for node, name in ((1, "one"), (2, "two")))]
    for pod in pods:
        egress.until(partial(leaves_right, egress, pod, version))
    names = {node.name: node for node in egress.lab.nodes}
    silences, unanswered = [], 0
    with Traffic(pods, 34, 3) as traffic, egress.lab.capture() as capture:
        for _ in range(20):
            holder, standby = (names[name] for name in recorded(egress)[TOTO[version]])
            egress.until(partial(keeps, egress, standby, 111), timeout=20)
            traffic.unanswered()
            traffic.forget_silence()
            egress.ask(holder, "drain 60")
            egress.until(lambda: egress.ask(holder)["drain"]["done"], timeout=30)  # noqa: B023
            egress.until(partial(went_on, traffic, time.monotonic()), timeout=20)
            silences.append([traffic.silence(version, streams=streams) for streams in (False, True)])
            unanswered += traffic.unanswered()
            assert traffic.lost == []
            assert recorded(egress)[TOTO[version]][0] == standby.name
            egress.ask(holder, "undrain")
            egress.until(lambda: bool(recorded(egress)[TOTO[version]][1]), timeout=40)
        assert sources_are_right(traffic)
        assert not capture.leaks(allowed=TOTO.values())
    for name, each in zip(("UDP", "TCP"), zip(*silences, strict=True), strict=True):
        print(f"{egress.world}, {name}: median {1000 * median(each):.0f} ms, longest {1000 * max(each):.0f} ms")
    sent = sum(one.sent for one in traffic.all if not one.stream)
    print(f"{egress.world}: {unanswered} of {sent} datagrams without an answer")
