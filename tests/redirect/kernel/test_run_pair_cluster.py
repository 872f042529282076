"""A pair whose adverts go between the pods: the LAN carries no VRRP, and is where two with one address would meet."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.redirect.kernel.cluster_pair import PORT, ClusterPair
from tests.redirect.kernel.pair import (
    NUMBER,
    Stream,
    bridge_drop,
    kill,
    of_standby,
    overlap,
    page,
    short_directory,
    status,
    wrong_sources,
)
from tests.redirect.kernel.test_run_pair import FAULTS, MOST_BOTH, MOST_SECONDS, node_of, take_over, twenty_times

pytestmark = pytest.mark.root

SHAPES = [("bridge", "nftables", 4), ("point-to-point", "iptables", 6)]


@pytest.fixture(params=SHAPES, ids=["-".join(map(str, item)) for item in SHAPES])
def routers(make_lab: Callable[..., Lab], request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterPair]:
    """A pair that runs, on a LAN that lets no VRRP pass."""
    shape, backend, family = request.param
    with short_directory() as directory:
        pair = ClusterPair(make_lab(nodes=3, shape=shape), backend, tmp_path, directory, family)
        bridge_drop(pair.lab)
        pair.start()
        yield pair


def test_the_standby_takes_over(routers: ClusterPair) -> None:
    splits: list[int] = []
    with routers.lab.capture() as capture:
        for name in FAULTS:
            figures = take_over(routers, name)
            # Beside other tests; the second that is wanted is asked of the twenty times below. Who is cut off from the
            # LAN is heard, and gives way because it misses its gateway.
            assert max(figures.gaps) < 2, (name, figures)
            assert max(figures.both.seconds, figures.mended.seconds) < MOST_BOTH, (name, figures)
            assert not figures.both.packets, "the one that was killed is waited for"
            if name != "freeze":
                splits += [status(router)["pair"]["splits"] for router in routers.routers]
            else:
                # One that goes on believes for a moment that it still has the address.
                break
        leaving = take_over(routers, "leaving")
        assert max(leaving.gaps) < 2, leaving
        assert max(leaving.both.seconds, leaving.mended.seconds) < MOST_BOTH, leaving
    assert not any(splits)
    assert not [packet for packet in capture.packets if str(packet.dst) == "224.0.0.18"]


@pytest.mark.on_demand
@pytest.mark.timeout(3000)
def test_the_standby_takes_over_twenty_times(routers: ClusterPair, request: pytest.FixtureRequest) -> None:
    """Shows the figures of docs/pair.md. On a machine that has nothing else to do."""
    found = twenty_times(routers, request.node.callspec.id, FAULTS)
    for name, figures in found.items():
        assert max(one.both.seconds for one in figures) == 0, name
        assert max(max(one.gaps) for one in figures) < MOST_SECONDS, name


def test_a_cut_between_the_pods_makes_no_second_active_one(routers: ClusterPair) -> None:
    active = routers.active()
    standby = routers.other(active)
    macs = str(active.macvlan_mac), str(standby.macvlan_mac)
    with routers.lab.capture() as capture, Stream(routers) as stream:
        started = time.time()
        routers.cut_cluster()
        said = f"{macs[0]} has it in the egress network, and no advert of it comes by the cluster's"
        routers.until(lambda: said in page(standby, "/readyz")[1], "it says what is wrong")
        time.sleep(3)
        # The one that has the address does not hear of it.
        assert routers.role(active) == "active"
        assert page(active, "/readyz")[0] == 200
        assert routers.role(standby) == "fault"
        assert status(standby)["pair"]["splits"] == 1
        assert "egress_router_pair_splits_total 1.0" in page(standby, "/metrics")[1]
        assert "not heard in the cluster's: 1 times" in standby.run("status").stdout
        routers.mend_cluster()
        routers.until(lambda: routers.roles() == ["active", "standby"], "it stands by again")
        assert not status(standby)["pair"]["blocked"]
        assert stream.gap(started) < 1
    assert not of_standby(capture, macs[1], time.time())
    assert not wrong_sources(capture)

    # Cut off from each other, and the one that has the address is gone: who sees that on the LAN takes it.
    routers.cut_cluster()
    routers.until(lambda: routers.role(standby) == "fault", "it is cut off")
    with routers.lab.capture() as capture, Stream(routers) as stream:
        started = time.time()
        routers.lab.unplug(node_of(routers, active))
        routers.until(lambda: routers.role(standby) == "active", "the standby takes over")
        routers.until(lambda: stream.answered_since(started, standby), "it answers")
        assert stream.gap(started) < 3
        # It is back on the LAN, and nobody hears anybody.
        back = time.time()
        routers.lab.plug(node_of(routers, active))
        time.sleep(2)
    assert not wrong_sources(capture)
    assert overlap(capture, macs, back, time.time()).seconds < MOST_BOTH
    assert [routers.role(router) for router in (standby, active)] == ["active", "fault"]


def test_a_short_cut_between_the_pods_changes_nothing(routers: ClusterPair) -> None:
    """Whichever of the two has the higher source in its adverts, by which keepalived decides between equals."""
    cut_shortly(routers)
    active = routers.active()
    standby = routers.other(active)
    kill(active)
    routers.until(lambda: routers.role(standby) == "active", "the standby takes over")
    active.start()
    routers.until(lambda: routers.roles() == ["active", "standby"], "both run again")
    routers.until(lambda: status(active)["pair"]["peers"], "it has heard of the other one")
    routers.until_both_elect()
    cut_shortly(routers)


def cut_shortly(routers: ClusterPair) -> None:
    active = routers.active()
    standby = routers.other(active)
    changes = status(active)["pair"]["changes"]
    routers.cut_cluster()
    routers.until(lambda: "waits until" in page(standby, "/readyz")[1], "it is elected")
    routers.mend_cluster()
    # Longer than a lease, and than it is kept off after that.
    time.sleep(3)
    assert status(active)["pair"]["changes"] == changes
    assert routers.role(standby) == "standby"
    assert status(standby)["pair"]["splits"] == 0
    assert not status(standby)["pair"]["blocked"]


def test_two_that_were_active_apart_are_not_when_the_lan_is_whole(routers: ClusterPair) -> None:
    """Nothing passes between them, so that each side has one; then the LAN is mended, and not the pods' network."""
    active = routers.active()
    standby = routers.other(active)
    macs = str(active.macvlan_mac), str(standby.macvlan_mac)
    routers.cut_cluster()
    # Each hears the gateway, and not the other one.
    bridge_drop(routers.lab, *(f"ether saddr {one} ether daddr {other}" for one, other in (macs, macs[::-1])), *(
        f'ether saddr {mac} ether type {kind} ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00'
        for mac in macs for kind in ("arp", "ip6")
    ))  # fmt: skip
    routers.until(lambda: routers.roles() == ["active", "active"], "both are active")
    with routers.lab.capture() as capture, Stream(routers):
        time.sleep(0.5)
        whole = time.time()
        bridge_drop(routers.lab)
        routers.until(lambda: "active" in routers.roles() and routers.roles() != ["active", "active"], "one is")
        time.sleep(1)
        ended = time.time()
    together = overlap(capture, macs, whole, ended)
    print(f"both sent for {together.seconds * 1000:.0f} ms ({together.packets} packets)")
    assert together.seconds < MOST_BOTH
    loser = next(router for router in routers.routers if router.macvlan_mac == min(macs))
    assert routers.role(routers.other(loser)) == "active"
    assert routers.role(loser) == "fault"
    assert "one of both steps back now" in loser.log()
    assert not wrong_sources(capture)
    routers.mend_cluster()
    routers.until(lambda: routers.roles() == ["active", "standby"], "it stands by")


def test_what_is_no_peers_is_not_heeded_and_what_is_taken_away_comes_back(routers: ClusterPair) -> None:
    active = routers.active()
    changes = [status(router)["pair"]["changes"] for router in routers.routers]
    # Of the highest priority, and for this pair's address: by whoever may send there.
    forged = vxlan(advert(status(active)["pair"]["number"], 255, routers))
    kind = socket.AF_INET if routers.family == 4 else socket.AF_INET6
    with routers.client.socket(kind, socket.SOCK_DGRAM) as sender:
        for _ in range(50):
            sender.sendto(forged, (str(active.host.addresses[routers.family]), PORT))
            time.sleep(0.02)
    active.logged(f"{routers.client.addresses[routers.family]}, which EGRESS_PAIR_PEERS does not name, sends adverts")
    assert [status(router)["pair"]["changes"] for router in routers.routers] == changes

    for router in routers.routers:
        router.host.ip("link del egress-pair")
        router.logged("egress-pair was taken away")
        routers.until(lambda: routers.roles() == ["active", "standby"], "they elect again")
    time.sleep(2)
    assert routers.roles() == ["active", "standby"]


def advert(number: int, priority: int, routers: ClusterPair) -> bytes:
    """Return an advert with the pair's own virtual address, as one of its routers sends it, of another priority."""
    active = routers.active()
    with active.host.socket(socket.AF_PACKET, socket.SOCK_RAW) as heard:
        heard.bind(("egress-relay", 0x0800))
        heard.settimeout(5)
        while True:
            frame = bytearray(heard.recv(2048))
            if frame[23] == 112:
                break
    assert frame[35] == number == int(NUMBER)
    # The checksum is of ones' complement: what one word gains another one loses.
    (checksum,) = struct.unpack_from("!H", frame, 40)
    checksum -= priority - frame[36] << 8
    struct.pack_into("!H", frame, 40, checksum % 0xFFFF)
    frame[36] = priority
    frame[6:12] = bytes.fromhex("020000000099")
    return bytes(frame)


def vxlan(frame: bytes) -> bytes:
    return struct.pack("!II", 0x08000000, int(NUMBER) << 8) + frame


@pytest.mark.parametrize("rp_filter", [1])
def test_a_strict_reverse_path_filter_lets_adverts_pass(
    make_lab: Callable[..., Lab], rp_filter: int, tmp_path: Path
) -> None:
    with short_directory() as directory:
        pair = ClusterPair(make_lab(nodes=3, shape="bridge"), "nftables", tmp_path, directory, 4)
        pair.start_with_reverse_path_filter(rp_filter)
