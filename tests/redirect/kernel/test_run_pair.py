"""Two routers with one EGRESS_SOURCE: one has it, the other one takes it over, and never do both send for long."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from lab import Host, Lab, NoReply
from lab.addressing import PODS
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.pair import (
    RULES,
    Overlap,
    RouterPair,
    bridge_drop,
    descendants,
    kill,
    of_standby,
    overlap,
    page,
    short_directory,
    status,
    wrong_sources,
)
from tests.redirect.kernel.router import SOURCE4

pytestmark = pytest.mark.root

#: A take-over at the default interval, on a machine that has other things to do, too.
MOST_SECONDS = 1.0
#: Both send: as long as the lease of one that was killed lasts.
MOST_BOTH = 1.0


@pytest.fixture
def routers(make_lab: Callable[..., Lab], shape: str, backend: str, tmp_path: Path) -> Iterator[RouterPair]:
    """A pair that runs."""
    with short_directory() as directory:
        pair = RouterPair(make_lab(nodes=3, shape=shape), backend, tmp_path, directory)
        pair.start()
        yield pair


@dataclass
class Fault:
    """How a fault is made and mended. ``ends``: the router ends with it."""

    make: Callable[[RouterPair, LiveRouter], None]
    mend: Callable[[RouterPair, LiveRouter], None] | None = None
    ends: bool = False


def _unplug(pair: RouterPair, active: LiveRouter) -> None:
    """The cable of its node's only NIC: of what goes outside the same as the end of the node."""
    pair.lab.unplug(node_of(pair, active))


def _plug(pair: RouterPair, active: LiveRouter) -> None:
    pair.lab.plug(node_of(pair, active))


def _split(pair: RouterPair, active: LiveRouter) -> None:
    """The switch lets nothing of the active one through any more; it sees no fault of its own link."""
    bridge_drop(pair.lab, f"ether saddr {active.macvlan_mac}", f"ether daddr {active.macvlan_mac}")


def _lose_gateway(pair: RouterPair, active: LiveRouter) -> None:
    gateway = pair.lab.gateway.mac()
    bridge_drop(
        pair.lab,
        f"ether saddr {active.macvlan_mac} ether daddr {gateway}",
        f"ether saddr {gateway} ether daddr {active.macvlan_mac}",
        # Questions to all machines, too: but not the adverts.
        f"ether saddr {active.macvlan_mac} ether type arp",
        f"ether saddr {active.macvlan_mac} ether type ip6",
    )


def _mend_switch(pair: RouterPair, _: LiveRouter) -> None:
    bridge_drop(pair.lab)


def _stop_keepalived(_: RouterPair, active: LiveRouter) -> None:
    assert active.process is not None
    os.kill(descendants(active.process.pid)[-1], signal.SIGKILL)


def _freeze(_: RouterPair, active: LiveRouter) -> None:
    """A node that stands still, as a virtual machine that is moved."""
    _send_all(active, signal.SIGSTOP)


def _thaw(_: RouterPair, active: LiveRouter) -> None:
    _send_all(active, signal.SIGCONT)


def _send_all(router: LiveRouter, number: signal.Signals) -> None:
    assert router.process is not None
    for pid in (router.process.pid, *descendants(router.process.pid)):
        os.kill(pid, number)


FAULTS = {
    "kill": Fault(lambda _, active: kill(active), ends=True),
    "power": Fault(_unplug, _plug),
    "split": Fault(_split, _mend_switch),
    "gateway": Fault(_lose_gateway, _mend_switch),
    "keepalived": Fault(_stop_keepalived),
    "freeze": Fault(_freeze, _thaw),
    "leaving": Fault(lambda _, active: active.signal(signal.SIGTERM), ends=True),
}


@dataclass
class Figures:
    """What a take-over was like: seconds without an answer, of IPv4 and IPv6; both sent; after it was mended."""

    gaps: tuple[float, float]
    both: Overlap
    mended: Overlap

    def __str__(self) -> str:
        gaps = f"no answer for {self.gaps[0] * 1000:.0f} ms (IPv4), {self.gaps[1] * 1000:.0f} ms (IPv6)"
        both = f"both sent for {self.both.seconds * 1000:.0f} ms ({self.both.packets} packets)"
        return f"{gaps}; {both}; mended: {self.mended.seconds * 1000:.0f} ms ({self.mended.packets} packets)"


def take_over(routers: RouterPair, name: str) -> Figures:
    """Make a fault, see the standby take over, mend it; nothing may have left with a wrong source, or of the standby.
    Then both run again.
    """
    fault = FAULTS[name]
    active = routers.active()
    standby = routers.other(active)
    macs = str(active.macvlan_mac), str(standby.macvlan_mac)
    with routers.lab.capture() as capture, routers.stream(4) as four, routers.stream(6) as six:
        time.sleep(0.2)
        when = time.time()
        fault.make(routers, active)
        routers.until(lambda: routers.role(standby) == "active", f"{name}: the standby takes over")
        for stream in (four, six):
            routers.until(lambda stream=stream: stream.answered_since(when, standby), "it answers")  # type: ignore[misc]
        time.sleep(1.2)
        mended = time.time()
        if fault.mend is not None:
            fault.mend(routers, active)
            routers.until(lambda: routers.roles() == ["active", "standby"], f"{name}: one of them is active")
            time.sleep(0.5)
        ended = time.time()
    assert not wrong_sources(capture), name
    assert not of_standby(capture, macs[1], when), name
    if fault.ends:
        active.wait()
        active.start()
    routers.until(lambda: routers.roles() == ["active", "standby"], f"{name}: both run again")
    routers.until_both_elect()
    figures = Figures(
        (four.gap(when), six.gap(when)), overlap(capture, macs, when, mended), overlap(capture, macs, mended, ended)
    )
    print(f"{name}: {figures}")
    return figures


def twenty_times(routers: RouterPair, what: str, names: Iterable[str], times: int = 20) -> dict[str, list[Figures]]:
    """Make each fault so often, and print a row of the table in docs/pair.md of it."""
    found: dict[str, list[Figures]] = {}
    for name in names:
        figures = found[name] = []
        for _ in range(times):
            # What the fault before has left (a keepalived that just starts) is another fault.
            time.sleep(1.5)
            figures.append(take_over(routers, name))
        gaps = sorted(max(one.gaps) for one in figures)
        both = max(max(one.both.seconds, one.mended.seconds) for one in figures)
        packets = max(one.both.packets + one.mended.packets for one in figures)
        print(
            f"{what} {name}, {len(figures)} times: silent for {median(gaps) * 1000:.0f} ms (median), "
            f"{gaps[-1] * 1000:.0f} ms (worst); both sent for {both * 1000:.0f} ms, {packets} packets (worst); load "
            f"{os.getloadavg()[0]:.0f}",
            flush=True,
        )
    return found


def check(name: str, figures: Figures) -> None:
    """Hold a take-over against what is promised."""
    assert max(figures.gaps) < MOST_SECONDS, (name, figures)
    assert max(figures.both.seconds, figures.mended.seconds) < MOST_BOTH, (name, figures)


def test_the_standby_takes_over(routers: RouterPair) -> None:
    for name in FAULTS:
        check(name, take_over(routers, name))


@pytest.mark.on_demand
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("interval", "most", "most_without_gateway"), [("150ms", 1.0, 1.0), ("50ms", 0.3, 0.6)])
def test_the_standby_takes_over_twenty_times(
    make_lab: Callable[..., Lab],
    shape: str,
    backend: str,
    tmp_path: Path,
    interval: str,
    most: float,
    most_without_gateway: float,
) -> None:
    """Shows the figures of docs/pair.md. On a machine that has nothing else to do."""
    with short_directory() as directory:
        lab = make_lab(nodes=3, shape=shape)
        routers = RouterPair(lab, backend, tmp_path, directory, EGRESS_PAIR_INTERVAL=interval)
        routers.start()
        found = twenty_times(routers, f"{interval} {shape} {backend}", FAULTS)
    for name, figures in found.items():
        worst = max(max(one.gaps) for one in figures)
        assert worst < (most_without_gateway if name == "gateway" else most), (name, worst)


def test_what_a_pair_says_and_does_in_peace_and_in_trouble(routers: RouterPair, backend: str) -> None:
    """What is taken away or given, open connections, another machine with the address, and the one that leaves."""
    active = routers.active()
    standby = routers.other(active)
    assert page(active, "/readyz") == (200, "ready\n")
    code, text = page(standby, "/readyz")
    assert (code, text) == (503, f"standby: {active.macvlan_mac} ({peer_address(standby)}) has the address\n")
    assert page(standby, "/healthz") == (200, "ok\n")
    for router, doing in ((active, "ok: leaving by macvlan0"), (standby, "ok: ready to leave by macvlan0")):
        shown = router.run("status").stdout
        assert doing in shown, shown
        assert f"pair 46: {'active' if router is active else 'standby'} since" in shown
    assert not status(active)["repairs"]
    assert not status(standby)["repairs"]

    # What somebody gives a standby is taken away; what the active one loses comes back.
    standby.host.ip(f"address add {SOURCE4}/32 dev macvlan0")
    routers.until(lambda: SOURCE4 not in standby.host.ip("address show dev macvlan0"), "the standby gives it up")
    active.host.ip(f"address del {SOURCE4}/32 dev macvlan0")
    routers.until(lambda: status(active)["repairs"] and active.tcp(80, timeout=1), "the active one has it again")

    # The role goes while the router lives on: a client is told at its next packet.
    with routers.client.socket(socket.AF_INET) as open_one:
        open_one.settimeout(5)
        open_one.connect((str(active.host.addresses[4]), 80))
        _stop_keepalived(routers, active)
        routers.until(lambda: routers.role(standby) == "active", "the standby takes over")
        routers.until(lambda: routers.role(active) == "standby", "and the other one knows")
        time.sleep(0.3)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            send_often(open_one)
        assert time.monotonic() - started < 1
    with pytest.raises(NoReply) as refused:
        active.tcp(80, timeout=1)
    assert refused.value.reason == "refused"
    active, standby = standby, active
    assert routers.roles() == ["active", "standby"]

    # A third machine with the address keeps the standby from taking it.
    thief = routers.lab.machine("thief", "192.0.2.99")
    thief.ip(f"address add {SOURCE4}/32 dev eth0")
    mac = thief.mac("eth0")
    routers.until(lambda: mac in page(standby, "/readyz")[1], "the standby names the machine")
    routers.until(lambda: routers.role(standby) == "fault", "and is none any more")
    routers.until(lambda: f"{mac} claims {SOURCE4} too" in page(active, "/readyz")[1], "the active one names it, too")
    thief.ip(f"address del {SOURCE4}/32 dev eth0")
    routers.until_for(lambda: routers.roles() == ["active", "standby"], "it is one again", 40)

    # The standby leaves: nothing changes for the other one.
    changes = status(active)["pair"]["changes"]
    standby.signal(signal.SIGTERM)
    assert standby.wait() == 0
    time.sleep(1)
    assert status(active)["pair"]["changes"] == changes
    assert SOURCE4 not in standby.host.ip("address show")


@pytest.mark.parametrize(("backend", "family"), [("nftables", 4), ("nftables", 6)])
def test_peers_compare_their_lists(
    make_lab: Callable[..., Lab], shape: str, backend: str, family: int, tmp_path: Path
) -> None:
    """Unequal is unready with the reason for a standby; for the active one it is a warning, as that it is alone."""
    with short_directory() as directory:
        cluster = " ".join(map(str, PODS.values()))
        routers = RouterPair(make_lab(nodes=3, shape=shape), backend, tmp_path, directory, EGRESS_CLUSTER_CIDRS=cluster)
        peers = " ".join(str(router.host.addresses[family]) for router in routers.routers)
        for router in routers.routers:
            router.env["EGRESS_PAIR_PEERS"] = peers
        routers.start()
        active = routers.active()
        standby = routers.other(active)

        def twin(router: LiveRouter) -> Any:
            other = str(routers.other(router).host.addresses[family])
            twins = status(router)["pair"]["twins"]
            assert twins.keys() <= {other}
            return twins.get(other)

        alike = {"differs": [], "problem": ""}
        known = {"role": "standby", "holding": False, **alike}
        routers.until(lambda: twin(active) == known, "the active one knows who stands by")
        routers.until(lambda: twin(standby) == {"role": "active", "holding": True, **alike}, "and who is active")
        assert page(active, "/readyz") == (200, "ready\n")
        assert f"peer {standby.host.addresses[family]}: standby" in active.run("status").stdout

        standby.swap(f"{RULES}81 tcp 203.0.113.25\n")
        differs = "its destinations are not those of the peer"
        routers.until(
            lambda: f"{differs} {active.host.addresses[family]} (active)" in page(standby, "/readyz")[1], "it says so"
        )
        routers.until(lambda: differs in page(active, "/readyz")[1], "the other one warns")
        assert page(active, "/readyz")[0] == 200
        assert "egress_router_pair_peers_differing 1.0" in page(active, "/metrics")[1]
        active.swap(f"{RULES}# the same\n81 tcp 203.0.113.25\n")
        routers.until(lambda: page(active, "/readyz") == (200, "ready\n"), "they are alike again")
        routers.until(lambda: differs not in page(standby, "/readyz")[1], "for both")

        kill(standby)
        alone = "nobody stands by"
        routers.until(lambda: alone in page(active, "/readyz")[1], "the active one says that nobody stands by")
        assert page(active, "/readyz")[0] == 200
        assert "egress_router_pair_standbys 0.0" in page(active, "/metrics")[1]
        standby.start()
        routers.until(lambda: alone not in page(active, "/readyz")[1], "until somebody does")


@pytest.mark.parametrize("backend", ["nftables"])
def test_one_that_is_to_leave_at_once_waits_for_no_connection(
    make_lab: Callable[..., Lab], backend: str, tmp_path: Path
) -> None:
    """As `manifests --pair --headless` has it: nobody new comes to one that ends, so that the other one is to be it."""
    with short_directory() as directory:
        more = {"EGRESS_SHUTDOWN_DELAY": "0", "EGRESS_SHUTDOWN_GRACE": "30"}
        routers = RouterPair(make_lab(nodes=3, shape="bridge"), backend, tmp_path, directory, **more)
        routers.start()
        active = routers.active()
        standby = routers.other(active)
        with routers.client.socket(socket.AF_INET) as open_one:
            open_one.connect((str(active.host.addresses[4]), 80))
            started = time.monotonic()
            active.signal(signal.SIGTERM)
            routers.until(lambda: routers.role(standby) == "active", "the standby takes over")
            assert time.monotonic() - started < 2
            assert active.wait() == 0
            assert time.monotonic() - started < 10


@pytest.mark.parametrize("backend", ["nftables"])
@pytest.mark.parametrize("rp_filter", [1, 2])
def test_adverts_pass_the_reverse_path_filter(
    make_lab: Callable[..., Lab], backend: str, rp_filter: int, tmp_path: Path
) -> None:
    """Nodes of today have it loose for interfaces to come (systemd), older ones strict, and pods inherit that."""
    with short_directory() as directory:
        routers = RouterPair(make_lab(nodes=3, shape="bridge"), backend, tmp_path, directory)
        routers.start_with_reverse_path_filter(rp_filter)
        check("keepalived", take_over(routers, "keepalived"))


@pytest.mark.parametrize("backend", ["nftables"])
def test_one_that_is_killed_and_starts_again_does_not_take_its_own_address_for_anothers(
    make_lab: Callable[..., Lab], backend: str, tmp_path: Path
) -> None:
    """Both are killed: the kernels go on answering for a second, and who starts has heard no adverts of the other."""
    with short_directory() as directory:
        routers = RouterPair(make_lab(nodes=3, shape="bridge"), backend, tmp_path, directory)
        routers.start()
        active = routers.active()
        standby = routers.other(active)
        kill(standby)
        kill(active)
        started = time.monotonic()
        standby.start()
        routers.until(lambda: routers.role(standby) == "active", "it is active")
        assert time.monotonic() - started < 8


@pytest.mark.parametrize("backend", ["nftables"])
def test_priorities_addresses_and_numbers(make_lab: Callable[..., Lab], backend: str, tmp_path: Path) -> None:
    """The highest priority takes the address when it comes; adverts bear EGRESS_PAIR_ADDRESS; two pairs, one number."""
    with short_directory() as directory:
        routers = RouterPair(make_lab(nodes=3, shape="bridge"), backend, tmp_path, directory)
        first, second = routers.routers
        first.env["EGRESS_PAIR_ADDRESS"] = "192.0.2.201"
        second.env |= {"EGRESS_PAIR_ADDRESS": "192.0.2.202", "EGRESS_PAIR_PRIORITY": "60"}
        first.start()
        routers.until(lambda: routers.role(first) == "active", "the first one is active")
        with routers.lab.capture() as capture:
            second.start()
            routers.until(lambda: routers.role(second) == "active", "the second one takes the address")
            routers.until(lambda: routers.role(first) == "standby", "the first one knows")
            routers.until(lambda: peer_address(first) == "192.0.2.202", "by the second one's adverts")
        sources = {str(packet.src) for packet in capture.packets if str(packet.dst) == "224.0.0.18"}
        assert sources == {"192.0.2.201", "192.0.2.202"}
        assert "has the lower priority" in status(second)["pair"]["why"]

        # Without the best one the other takes it, and gives it back.
        second.signal(signal.SIGTERM)
        assert second.wait() == 0
        routers.until(lambda: routers.role(first) == "active", "the first one takes it")
        assert "has stopped" in status(first)["pair"]["why"]

        # One of another pair with the same number: neither gives way.
        second.env["EGRESS_SOURCE"] = "192.0.2.47"
        second.env["EGRESS_GATEWAY"] = "192.0.2.1"
        second.swap("80 tcp 203.0.113.25\n")
        second.start()
        routers.until(lambda: routers.role(second) == "active", "the other pair has its own active one")
        for router, other in ((first, second), (second, first)):
            said = f"{other.macvlan_mac} uses EGRESS_PAIR=46 for another EGRESS_SOURCE"
            routers.until(lambda said=said, router=router: said in page(router, "/readyz")[1], "it is named")  # type: ignore[misc]
            assert routers.role(router) == "active"


def send_often(connection: socket.socket) -> None:
    for _ in range(20):
        connection.sendall(b"x")
        time.sleep(0.02)


def peer_address(router: LiveRouter) -> str:
    (peer,) = status(router)["pair"]["peers"].values()
    return str(peer["address"])


def node_of(pair: RouterPair, router: LiveRouter) -> Host:
    assert router.host.node is not None
    return router.host.node
