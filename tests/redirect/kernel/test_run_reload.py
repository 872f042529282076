"""`egress-router run`: destinations change, connections of unchanged rules go on, those of changed ones end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egress_router.daemon.drain import QUIET_SECONDS
from lab import Lab, NoReply
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router, assert_answered_by, assert_no_leak

pytestmark = pytest.mark.root

FIRST = """\
80 tcp 203.0.113.25
81 tcp 203.0.113.25 80
53 udp 203.0.113.25
443 tcp 2001:db8:113::25
444 tcp 2001:db8:113::25 443
"""
SECOND = """\
80 tcp 203.0.113.25
81 tcp 203.0.113.26 80
53 udp 203.0.113.26
443 tcp 2001:db8:113::25
2001:db8:113::26
"""


def serve(lab: Lab) -> None:
    lab.echo("203.0.113.25", tcp=[80], udp=[53])
    lab.echo("203.0.113.26", tcp=[80], udp=[53])
    lab.echo("2001:db8:113::25", tcp=[443])
    lab.echo("2001:db8:113::26", tcp=[444, 9909])


CONNECTIONS = str(Path(__file__).parents[2] / "support/connections.py")


class Talk:
    """An open connection (or UDP flow) from the client through the router to an echo server."""

    def __init__(self, router: Router, port: int, family: int = 4, kind: int = socket.SOCK_STREAM) -> None:
        self.socket = router.client.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        self.socket.settimeout(3)
        self.socket.connect((str(router.host.addresses[family]), port))
        self.lines = self.say("first").split()

    def say(self, text: str) -> str:
        """Send ``text`` and return what comes back."""
        self.socket.sendall(text.encode() + b"\n")
        return self.socket.recv(4096).decode()

    @property
    def server(self) -> str:
        """The address of the server, as it told in its first answer."""
        return self.lines[2]


def test_a_swapped_configmap_is_applied_and_only_changed_rules_lose_connections(
    lab: Lab, backend: str, tmp_path: Path
) -> None:
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST)
    with lab.capture() as capture:
        router.start()
        kept = [Talk(router, 80), Talk(router, 443, 6)]
        redirected, removed = Talk(router, 81), Talk(router, 444, 6)
        datagrams = Talk(router, 53, kind=socket.SOCK_DGRAM)
        assert redirected.server == datagrams.server == "203.0.113.25"
        router.swap(SECOND)
        router.logged("3 connections ended")
        for talk in kept:
            assert talk.say("again") == "again\n"
        for talk in (redirected, removed):
            with pytest.raises(ConnectionResetError):
                talk.say("again")
        assert datagrams.say("again").split()[2] == "203.0.113.26"
        assert_answered_by(router.tcp(81), SOURCE4, "203.0.113.26", 80)
        assert_answered_by(router.tcp(444, 6), SOURCE6, "2001:db8:113::26", 444)
        for talk in kept:
            assert talk.say("again") == "again\n"
    assert_no_leak(capture)


def test_unchanged_rules_keep_their_counters(lab: Lab, backend: str, tmp_path: Path) -> None:
    """Also when the change is one of structure: a first range, a first fallback, a family that loses its last rule."""
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST, EGRESS_FLOW_OFFLOAD="off")
    router.start()
    router.tcp(80)
    router.tcp(80)
    router.tcp(443, 6)
    for rules, line in ((SECOND, 1), ("1000-1010 tcp 203.0.113.26\n80 tcp 203.0.113.25\n203.0.113.26\n", 2)):
        router.reload(rules)
        row = next(row for row in router.status()["destinations"] if row["line"] == line)
        assert row["connections"] == 2
        assert row["packets"] >= 10
    router.tcp(80)
    row = next(row for row in router.status()["destinations"] if row["line"] == 2)
    assert row["connections"] == 3


def test_a_bad_file_is_reported_and_the_old_rules_stay(lab: Lab, backend: str, tmp_path: Path) -> None:
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST)
    router.start()
    talk = Talk(router, 80)
    for bad, said in (
        ("80 tcp 203.0.113.26\n81 tpc 203.0.113.26\n", 'line 2: "81 tpc 203.0.113.26": "tpc" is not a protocol'),
        ("", "has no rule"),
        ("80 tcp 203.0.113.26\n9909 tcp 203.0.113.26\n", "claimed by line 2"),
    ):
        router.swap(bad)
        router.logged(said)
        assert_answered_by(router.tcp(80), SOURCE4, "203.0.113.25", 80)
    router.file.unlink()
    router.logged("cannot be read: No such file or directory")
    assert talk.say("again") == "again\n"
    assert_answered_by(router.tcp(80), SOURCE4, "203.0.113.25", 80)
    router.file.symlink_to("..data/destinations")
    router.swap("80 tcp 203.0.113.26\n")
    router.logged("reload: 1 destinations, changed")
    assert_answered_by(router.tcp(80), SOURCE4, "203.0.113.26", 80)


def test_a_file_half_written_then_a_kill_then_the_end_of_the_grace(lab: Lab, backend: str, tmp_path: Path) -> None:
    """What was changed while nobody was there to see it ends, too; what was not goes on all the time."""
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST, EGRESS_SHUTDOWN_GRACE="1")
    router.file.unlink()
    router.file.write_text("80 tcp 203.0.113.25\n81 tcp 203.0.113.25 80\n")
    with lab.capture() as capture:
        router.start()
        kept, redirected = Talk(router, 80), Talk(router, 81)
        with router.file.open("w") as file:
            for line in ("80 tcp 203.0.113.25\n", "8", "1 tcp 203.0.113.25", " 80\n", "82 tcp 203.0.113.26 80\n"):
                file.write(line)
                file.flush()
                time.sleep(0.1)
        router.logged("reload: 3 destinations, changed; 0 connections ended")
        router.logged("new ports: 82/tcp. A Service and a NetworkPolicy name theirs")
        assert "refused" not in router.log()
        assert redirected.say("again") == "again\n"
        assert_answered_by(router.tcp(82), SOURCE4, "203.0.113.26", 80)
        router.signal(signal.SIGKILL)
        router.wait()
        assert kept.say("again") == "again\n"
        router.file.write_text(SECOND)
        router.start()
        router.logged("connections of former rules ended")
        assert kept.say("again") == "again\n"
        with pytest.raises(ConnectionResetError):
            redirected.say("again")
        assert_answered_by(router.tcp(81), SOURCE4, "203.0.113.26", 80)
        router.signal(signal.SIGTERM)
        assert router.wait() == 0
        assert "1 connections were cut" in router.log()
        assert_no_leak(capture)
        capture.clear()
        with pytest.raises(OSError, match=r"reset|timed out"):
            kept.say("again")
        assert not [packet for packet in capture.outgoing() if packet.dport == 80]


def test_leaving_lets_connections_finish_and_forwards_nothing_afterwards(
    lab: Lab, backend: str, tmp_path: Path
) -> None:
    """A UDP flow has no end: it is waited for while packets come. `init` in legacy mode is the same thing."""
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST, EGRESS_SHUTDOWN_GRACE="60", EGRESS_SHUTDOWN_DELAY="0")
    with lab.capture() as capture:
        router.start("init" if lab.shape == "bridge" else "run")
        talk, datagrams = Talk(router, 80), Talk(router, 53, kind=socket.SOCK_DGRAM)
        router.signal(signal.SIGTERM)
        router.logged("SIGTERM: leaving")
        with pytest.raises(NoReply) as refused:
            router.tcp(80)
        assert refused.value.reason == "refused"
        assert talk.say("again") == "again\n"
        assert router.process is not None
        talk.socket.close()
        for _ in range(14):
            assert "again" in datagrams.say("again")
            time.sleep(QUIET_SECONDS / 10)
        assert router.process.poll() is None
        assert router.wait() == 0
        assert "no connection was cut" in router.log()
        with pytest.raises(NoReply):
            router.tcp(80, timeout=1)
    assert_no_leak(capture)


@pytest.mark.parametrize("shape", ["bridge"])
def test_init_run_again_with_other_rules(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules=FIRST)
    router.init()
    kept, redirected, removed = Talk(router, 80), Talk(router, 81), Talk(router, 444, 6)
    datagrams = Talk(router, 53, kind=socket.SOCK_DGRAM)
    assert "3 connections of former rules ended" in router.init(EGRESS_DESTINATION=SECOND).stderr
    assert kept.say("again") == "again\n"
    for talk in (redirected, removed):
        with pytest.raises(ConnectionResetError):
            talk.say("again")
    assert datagrams.say("again").split()[2] == "203.0.113.26"


#: How many reloads there are, and how many connections come and go while there are ten more. All that the issue asks
#: for in one form, enough to see a fault that is not rare in the others: a reload of iptables takes ten times as long.
LOAD = {("bridge", "nftables"): (1000, 20_000)}
SOME_LOAD = (10, 1000)
#: More than this is a leak: a kilobyte for each reload.
GROWTH_MB = 1.0


@pytest.mark.timeout(300)
def test_reloads_break_nothing_and_leave_nothing_behind(lab: Lab, backend: str, open_directory: Path) -> None:
    serve(lab)
    router = LiveRouter(lab, backend, open_directory, FIRST)
    router.start()
    reloads, connections = LOAD.get((lab.shape, backend), SOME_LOAD)
    texts = (FIRST, FIRST + "82 tcp 203.0.113.26 80\n", "80 tpc x\n")
    for number in range(reloads // 50 + 5):
        router.reload(texts[number % 3])
    router.until(lambda: left(router)[1] == "", "no child is at work")
    before, resident = left(router), memory(router)
    for number in range(reloads):
        router.reload(texts[number % 3])
    router.until(lambda: left(router) == before, "all is closed, and no child is left")
    assert memory(router) < resident + GROWTH_MB
    address = str(router.host.addresses[4])
    command = [sys.executable, CONNECTIONS, address, "80", str(open_directory / "stop"), "4", str(connections)]
    load = router.client.popen(command, stdout=subprocess.PIPE)
    for number in range(10):
        time.sleep(connections / 20_000)
        router.reload(texts[number % 2])
    result = json.loads(load.communicate(timeout=200)[0])
    assert (result["connections"], result["failures"]) == (connections, [])


def process_of(router: LiveRouter) -> int:
    return int(router.host.run(["ss", "-Hltnp", "sport = :9909"]).stdout.split("pid=")[1].split(",")[0])


def left(router: LiveRouter) -> tuple[int, str]:
    """How many descriptors are open, and which children there are."""
    pid = process_of(router)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), children


def memory(router: LiveRouter) -> float:
    """Megabytes that are resident."""
    text = Path(f"/proc/{process_of(router)}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))
