"""`egress-router run`: destinations change, connections of unchanged rules go on, those of changed ones end."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from egress_router.lab import Lab, NoReply
from tests.kernel.live import LiveRouter
from tests.kernel.router import SOURCE4, SOURCE6, assert_answered_by, assert_no_leak

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


class Talk:
    """An open connection (or UDP flow) from the client through the router to an echo server."""

    def __init__(self, router: LiveRouter, port: int, family: int = 4, kind: int = socket.SOCK_STREAM) -> None:
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
    router = LiveRouter(lab, backend, tmp_path, FIRST)
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


@pytest.mark.parametrize("shape", ["bridge"])
def test_a_half_written_file_is_not_taken(lab: Lab, backend: str, tmp_path: Path) -> None:
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST)
    router.file.unlink()
    router.file.write_text("80 tcp 203.0.113.25\n81 tcp 203.0.113.25 80\n")
    router.start()
    talk = Talk(router, 81)
    with router.file.open("w") as file:
        for line in ("80 tcp 203.0.113.25\n", "8", "1 tcp 203.0.113.25", " 80\n", "82 tcp 203.0.113.26 80\n"):
            file.write(line)
            file.flush()
            time.sleep(0.1)
    router.logged("reload: 3 destinations, changed; 0 connections ended")
    assert "refused" not in router.log()
    assert talk.say("again") == "again\n"
    assert_answered_by(router.tcp(82), SOURCE4, "203.0.113.26", 80)


@pytest.mark.parametrize("shape", ["bridge"])
def test_killed_and_started_again_with_other_rules(lab: Lab, backend: str, tmp_path: Path) -> None:
    """What was changed while nobody was there to see it ends, too; what was not goes on all the time."""
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST)
    router.start()
    kept, redirected = Talk(router, 80), Talk(router, 81)
    router.signal(signal.SIGKILL)
    router.wait()
    assert kept.say("again") == "again\n"
    router.swap(SECOND)
    router.start()
    router.logged("1 connections of former rules ended")
    assert kept.say("again") == "again\n"
    with pytest.raises(ConnectionResetError):
        redirected.say("again")
    assert_answered_by(router.tcp(81), SOURCE4, "203.0.113.26", 80)


@pytest.mark.parametrize("verb", ["run", "init"])
def test_leaving_lets_connections_finish_and_forwards_nothing_afterwards(
    lab: Lab, backend: str, tmp_path: Path, verb: str
) -> None:
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST, EGRESS_SHUTDOWN_GRACE="60")
    with lab.capture() as capture:
        router.start(verb)
        talk = Talk(router, 80)
        router.signal(signal.SIGTERM)
        router.logged("SIGTERM: leaving")
        with pytest.raises(NoReply) as refused:
            router.tcp(80)
        assert refused.value.reason == "refused"
        assert talk.say("again") == "again\n"
        assert router.process is not None
        assert router.process.poll() is None
        talk.socket.close()
        assert router.wait() == 0
        assert "no connection was cut" in router.log()
        with pytest.raises(NoReply):
            router.tcp(80, timeout=1)
    assert_no_leak(capture)


@pytest.mark.parametrize("shape", ["bridge"])
def test_the_grace_ends(lab: Lab, backend: str, tmp_path: Path) -> None:
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, FIRST, EGRESS_SHUTDOWN_GRACE="1")
    router.start()
    talk = Talk(router, 80)
    router.signal(signal.SIGTERM)
    assert router.wait() == 0
    assert "1 connections were cut" in router.log()
    with lab.capture() as capture:
        with pytest.raises(OSError, match=r"reset|timed out"):
            talk.say("again")
        assert not [packet for packet in capture.outgoing() if packet.dport == 80]


@pytest.mark.parametrize("shape", ["bridge"])
def test_reloads_leave_nothing_behind(lab: Lab, backend: str, tmp_path: Path) -> None:
    """Descriptors and children; bench/longlived.py has a thousand reloads, and memory."""
    router = LiveRouter(lab, backend, tmp_path, FIRST)
    router.start()

    def left() -> tuple[int, str]:
        pid = int(router.host.run(["ss", "-Hltnp", "sport = :9909"]).stdout.split("pid=")[1].split(",")[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return len(list(Path(f"/proc/{pid}/fd").iterdir())), children

    for rules in (FIRST, SECOND):
        router.reload(rules)
    router.until(lambda: left()[1] == "", "no child is at work")
    before = left()[0]
    for number in range(20):
        router.reload((FIRST, SECOND, "80 tpc x\n")[number % 3])
    router.until(lambda: left() == (before, ""), "all is closed, and no child is left")
