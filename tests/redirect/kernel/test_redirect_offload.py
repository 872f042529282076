"""Established connections around the rules: what holds for them all the same. Needs a kernel with flow tables."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from lab import Lab
from lab.packet import Packet
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.offloaded import (
    KINDS,
    RULES,
    SERVERS,
    Talk,
    far_client,
    is_offloaded,
    serve,
    talking,
    tracked,
)
from tests.redirect.kernel.pair import kill, short_directory
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router, assert_answered_by, assert_no_leak

pytestmark = [pytest.mark.root, pytest.mark.distribution_kernel]

SOURCES = {4: SOURCE4, 6: SOURCE6}
WAYS = [(kind, family) for kind in KINDS for family in SERVERS]
DROP = "insert rule inet egress_router forward counter drop"


#: The port of a server that answers when a test says so.
PUSHED = 5353


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """A lab with two nodes, of the shape in which nobody answers for a far client."""
    lab = make_lab(nodes=2)
    serve(lab)
    return lab


def live(lab: Lab, directory: Path, **env: str) -> LiveRouter:
    router = LiveRouter(lab, "nftables", directory, RULES, ("router", 0, far_client(lab)), **env)
    router.start()
    return router


def test_near_and_far_clients_of_both_families(lab: Lab) -> None:
    router = Router(lab, "nftables", rules=RULES)
    far = far_client(lab)
    with lab.capture() as capture, ExitStack() as stack:
        assert "around the rules, by a flow table" in router.init(EGRESS_FLOW_OFFLOAD="on").stderr
        talks = []
        for client in (router.client, far):
            for kind, family in WAYS:
                talk = stack.enter_context(talking(client, router, kind, family))
                assert is_offloaded(router, talk), (client, kind, family, tracked(router, talk.port))
                talks.append((talk, family))
        # The control: what a rule drops goes on, and what is new does not come through.
        router.host.nft(DROP)
        for talk, family in talks:
            for _ in range(3):
                answer = talk.say()
                if talk.kind == "udp":
                    assert_answered_by(answer, SOURCES[family], SERVERS[family], 53)
        with pytest.raises(OSError, match=r"."):
            Talk(far, router, "udp", 4).say()
        # A second run puts the rules back, without a gap for those that are there.
        assert "set up" in router.init().stderr
        for talk, _ in talks:
            talk.say()
        assert "nothing changed" in router.init().stderr
        assert all(is_offloaded(router, talk) for talk, _ in talks), "a second run that changes nothing costs nothing"
    assert_no_leak(capture)
    status = router.status()
    assert (status["state"], status["flow_offload"]) == ("ok", {"used": True, "why_not": ""})
    rows = {row["line"]: row for row in status["destinations"]}
    assert rows[1]["connections"] == 2, "connections are whole"
    assert rows[1]["packets"] < 2 * 2 * 8, "packets are those that passed the rules"
    assert "without those of offloaded connections" in router.run("status").stdout


def test_sctp_and_off_go_by_the_rules(lab: Lab) -> None:
    lab.echo(SERVERS[4], sctp=[3868])
    router = Router(lab, "nftables", rules=f"{RULES}3868 sctp {SERVERS[4]}\n")
    router.init(EGRESS_FLOW_OFFLOAD="on")
    for _ in range(2):
        assert_answered_by(lab.sctp(router.client, router.host.addresses[4], 3868), SOURCE4, SERVERS[4], 3868)
    lines = router.host.run(["cat", "/proc/net/nf_conntrack"]).stdout
    assert "sctp" in lines
    assert "[OFFLOAD]" not in lines
    with talking(router.client, router, "tcp", 4) as talk:
        assert is_offloaded(router, talk)
        router.init(EGRESS_FLOW_OFFLOAD="off")
        talk.say()
        talk.say()
        assert not is_offloaded(router, talk), "with the flow table its connections come back to the rules"
    assert router.run("status", EGRESS_FLOW_OFFLOAD="off").returncode == 0
    assert "EGRESS_FLOW_OFFLOAD=off" in router.run("status", EGRESS_FLOW_OFFLOAD="off").stdout


def test_idle_ends_the_offload_alone(lab: Lab) -> None:
    router = Router(lab, "nftables", rules=RULES)
    router.init()
    for kind in KINDS:
        router.host.sysctl(f"net.netfilter.nf_flowtable_{kind}_timeout", 2)
    with ExitStack() as stack:
        talks = [stack.enter_context(talking(router.client, router, kind, family)) for kind, family in WAYS]
        assert all(is_offloaded(router, talk) for talk in talks)
        deadline = time.monotonic() + 20
        while any(is_offloaded(router, talk) for talk in talks):
            assert time.monotonic() < deadline, "idle, and offloaded still"
            time.sleep(0.2)
        for talk in talks:
            talk.say()
            talk.say()
            assert is_offloaded(router, talk)


def test_a_removed_line_ends_its_flows_at_once(lab: Lab, tmp_path: Path) -> None:
    router = live(lab, tmp_path)
    assert "around the rules, by a flow table" in router.log()
    with ExitStack() as stack:
        kept = [stack.enter_context(talking(router.client, router, kind, family)) for kind, family in WAYS]
        gone = [
            stack.enter_context(talking(router.client, router, kind, family, KINDS[kind][1] + 1))
            for kind, family in WAYS
        ]
        assert all(is_offloaded(router, talk) for talk in (*kept, *gone))
        router.reload("".join(f"80 tcp {server}\n53 udp {server}\n" for server in SERVERS.values()))
        router.logged("4 connections ended")
        for talk in gone:
            talk.socket.settimeout(1)
            with pytest.raises(OSError, match=r"."):
                talk.say()
        for talk in kept:
            talk.say()
            assert is_offloaded(router, talk), "a line that stays costs nothing"


def test_leaving_waits_for_those_that_live(lab: Lab, tmp_path: Path) -> None:
    """The kernel tells neither state nor timeout of what a flow table has, and a reset leaves it ESTABLISHED."""
    router = live(lab, tmp_path, EGRESS_SHUTDOWN_GRACE="20")
    with talking(router.client, router, "tcp", 4) as talk, talking(router.client, router, "tcp", 6) as over:
        assert is_offloaded(router, talk)
        assert is_offloaded(router, over)
        over.reset()
        most, cut = after_a_reset(router, over)
        router.signal(signal.SIGTERM)
        router.logged("leaving when there are no connections")
        time.sleep(2)
        assert router.process is not None
        assert router.process.poll() is None, router.log()
        talk.say()
        assert not is_offloaded(router, talk)
        talk.reset()
        ended = time.monotonic()
        assert router.wait() == 0
    assert time.monotonic() - ended < most, router.log()
    assert cut in router.log()


def after_a_reset(router: Router, talk: Talk) -> tuple[float, str]:
    """Return how long a router that leaves may take, and what it says: where the kernel keeps what was reset in a flow
    table for ten seconds it is known to be over; where for five minutes it is waited for, as a living one.
    """
    time.sleep(0.3)
    kept = int(tracked(router, talk.port).split("tcp")[1].split()[1])
    return (8, "no connection was cut") if kept <= 10 else (25, "left; 1 connections were cut")


def test_a_reset_is_an_end(lab: Lab, tmp_path: Path) -> None:
    router = live(lab, tmp_path, EGRESS_SHUTDOWN_GRACE="20")
    with talking(router.client, router, "tcp", 4) as talk:
        assert is_offloaded(router, talk)
        talk.reset()
        most, cut = after_a_reset(router, talk)
        assert "ESTABLISHED" in tracked(router, talk.port), "this proves nothing: the kernel knows that it is over"
        router.signal(signal.SIGTERM)
        started = time.monotonic()
        assert router.wait() == 0
    assert time.monotonic() - started < most, router.log()
    assert cut in router.log()


def test_an_interface_made_anew(lab: Lab, tmp_path: Path) -> None:
    router = live(lab, tmp_path)
    with talking(router.client, router, "udp", 4) as talk:
        assert is_offloaded(router, talk)
        router.host.ip("link del macvlan0")
        with suppress(OSError):
            talk.socket.settimeout(0.5)
            talk.say()
        assert not is_offloaded(router, talk)
        lab.macvlan(router.host)
        router.until(lambda: router.status()["state"] == "ok", "all is in place")
        router.until(lambda: '"macvlan0"' in table(router) or "macvlan0 }" in table(router), "and in the flow table")
        talk.socket.settimeout(3)
        router.until(lambda: _answers(talk), "it goes on")
        talk.say()
        assert is_offloaded(router, talk)


def table(router: Router) -> str:
    """Return the devices of the flow table."""
    lines = router.host.run(["nft", "list", "flowtables"]).stdout.splitlines()
    return " ".join(line for line in lines if "devices" in line)


def _answers(talk: Talk) -> bool:
    try:
        talk.say()
    except OSError:
        return False
    return True


def test_a_pairs_router_that_was_killed_sends_nothing(lab: Lab, tmp_path: Path) -> None:
    """Its rules stand, its address and its ways out have ended by themselves, and answers go on coming."""
    servers = {family: server_socket(lab, family) for family in SERVERS}
    rules = "".join(f"{PUSHED} udp {server}\n" for server in SERVERS.values())
    with short_directory() as directory, ExitStack() as stack:
        env = {"EGRESS_PAIR": "46", "EGRESS_RUN_DIR": str(directory / "run"), "EGRESS_FLOW_OFFLOAD": "on"}
        router = LiveRouter(lab, "nftables", tmp_path, rules, ("router", 0, far_client(lab)), **env)
        router.start()
        router.logged("the address is in place")
        for source in SOURCES.values():
            lab.gateway.ip(f"neigh replace {source} lladdr {router.macvlan_mac} dev eth0 nud permanent")
        talks, peers = {}, {}
        for family, server in servers.items():
            talk = talks[family] = Talk(router.client, router, "udp", family, PUSHED)
            stack.callback(talk.close)
            deadline = time.monotonic() + 10
            # Each renewal of the lease replaces IPv6's routes, and takes connections out until their next reply.
            while not is_offloaded(router, talk):
                assert time.monotonic() < deadline, tracked(router, talk.port)
                peers[family] = exchange(talk, server)
        kill(router)
        time.sleep(3)
        assert SOURCE4 not in router.host.ip("address show dev macvlan0"), "the lease ends by itself"
        with lab.capture() as capture:
            for _ in range(20):
                for family, talk in talks.items():
                    servers[family].sendto(b"late", peers[family])
                    assert talk.socket.recv(100) == b"late", "this proves nothing: no answer comes"
                    with suppress(OSError):
                        talk.socket.send(b"later")
                time.sleep(0.05)
        sent = [packet for packet in capture.packets if packet.src_mac == router.macvlan_mac and _speaks(packet)]
        assert not sent, "\n".join(map(str, sent[:20]))


def test_what_leaves_with_another_source_stays_with_the_guard(lab: Lab) -> None:
    """The rules of another EGRESS_SOURCE are in place, and answers to the former one still come."""
    server = server_socket(lab, 4)
    router = Router(lab, "nftables", rules=f"{PUSHED} udp {SERVERS[4]}\n")
    router.init()
    talk = Talk(router.client, router, "udp", 4, PUSHED)
    peer = [exchange(talk, server) for _ in range(3)][-1]
    assert is_offloaded(router, talk)
    other = f"192.0.2.47 {SOURCE6}"
    script = router.run("plan", "-o", "nft", EGRESS_SOURCE=other, EGRESS_FLOW_OFFLOAD="on").stdout
    assert "flow add @established" in script
    router.host.nft(script)
    with lab.capture() as capture:
        for _ in range(10):
            server.sendto(b"late", peer)
            assert talk.socket.recv(100) == b"late", "this proves nothing: no answer comes"
            talk.socket.send(b"later")
        sent = [packet for packet in capture.packets if packet.src_mac == router.macvlan_mac and _speaks(packet)]
    assert not sent, "\n".join(map(str, sent[:20]))
    assert not is_offloaded(router, talk)


def server_socket(lab: Lab, family: int) -> socket.socket:
    """Return a server that answers when the test says so."""
    opened = lab.services.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    opened.settimeout(3)
    opened.bind((SERVERS[family], PUSHED))
    return opened


def exchange(talk: Talk, server: socket.socket) -> tuple[str, int]:
    """Ask and have the server answer; return who the server saw."""
    talk.socket.send(b"early")
    _, peer = server.recvfrom(100)
    server.sendto(b"answer", peer)
    assert talk.socket.recv(100) == b"answer"
    return str(peer[0]), int(peer[1])


def _speaks(packet: Packet) -> bool:
    """Whether a packet has the pair's address, or asks where a server is."""
    return str(packet.src) in SOURCES.values() or str(packet.dst) in SERVERS.values()
