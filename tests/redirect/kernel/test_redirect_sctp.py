"""SCTP through the redirect router: the kernels of distributions have it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Lab, NoReply
from tests.redirect.kernel.live import LiveRouter
from tests.redirect.kernel.router import SOURCE4, SOURCE6, Router, assert_answered_by, assert_no_leak

pytestmark = [pytest.mark.root, pytest.mark.distribution_kernel]

RULES = """
3868 sctp 203.0.113.25
3869 sctp 203.0.113.26 3868
3000-3010 sctp 203.0.113.26 5000-5010
3868 tcp 203.0.113.26
3868 sctp 2001:db8:113::25
203.0.113.27
"""
#: (family, port of the pod, server, its port)
WAYS = [
    (4, 3868, "203.0.113.25", 3868),
    (4, 3869, "203.0.113.26", 3868),
    (4, 3005, "203.0.113.26", 5005),
    (4, 9000, "203.0.113.27", 9000),
    (6, 3868, "2001:db8:113::25", 3868),
]
SOURCES = {4: SOURCE4, 6: SOURCE6}


def serve(lab: Lab) -> None:
    lab.echo("203.0.113.25", sctp=[3868])
    lab.echo("203.0.113.26", sctp=[3868, 5005], tcp=[3868])
    lab.echo("203.0.113.27", sctp=[9000])
    lab.echo("2001:db8:113::25", sctp=[3868])


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """A lab with one node; one shape is enough, since a machine in software is slow."""
    return make_lab(nodes=1)


def test_every_form_carries_associations(lab: Lab, backend: str) -> None:
    serve(lab)
    router = Router(lab, backend, rules=RULES)
    node = lab.nodes[0]
    # Positive control: without the router the node's address is seen.
    assert_answered_by(lab.sctp(router.client, "203.0.113.25", 3868), str(node.addresses[4]), "203.0.113.25", 3868)
    with lab.capture() as capture:
        router.init()
        for family, port, server, to_port in WAYS:
            answer = lab.sctp(router.client, router.host.addresses[family], port)
            assert_answered_by(answer, SOURCES[family], server, to_port)
        # The same port of another protocol is another line's.
        assert_answered_by(router.tcp(3868), SOURCE4, "203.0.113.26", 3868)
        with pytest.raises(NoReply):
            lab.sctp(router.client, router.host.addresses[6], 3869, timeout=2)
    assert_no_leak(capture)
    rows = {row["line"]: row for row in router.status()["destinations"]}
    assert {line: row["connections"] for line, row in rows.items()} == {2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1}
    # INIT and INIT ACK, COOKIE ECHO and COOKIE ACK, DATA and SACK both ways at least (RFC 9260).
    assert all(rows[line]["packets"] >= 8 for line in (2, 3, 4, 6)), rows


def test_a_reload_ends_associations_of_changed_lines_alone(lab: Lab, backend: str, tmp_path: Path) -> None:
    serve(lab)
    router = LiveRouter(lab, backend, tmp_path, "3868 sctp 203.0.113.25\n3869 sctp 203.0.113.26 3868\n")
    router.start()
    with associated(router, 3868) as kept, associated(router, 3869) as moved:
        router.swap("3868 sctp 203.0.113.25\n3869 sctp 203.0.113.27 9000\n")
        router.logged("1 connections ended")
        assert say(kept, "again") == "again"
        with pytest.raises(OSError, match=r"."):
            say(moved, "again")
    assert_answered_by(lab.sctp(router.client, router.host.addresses[4], 3869), SOURCE4, "203.0.113.27", 9000)


def associated(router: Router, port: int) -> socket.socket:
    """Return an association of the client that has carried a message each way."""
    opened = router.client.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    opened.settimeout(3)
    opened.connect((str(router.host.addresses[4]), port))
    assert SOURCE4 in say(opened, "first")
    return opened


def say(opened: socket.socket, text: str) -> str:
    """Send a message and return what comes back; ConnectionResetError when nothing does any more."""
    opened.sendall(text.encode())
    answer = opened.recv(4096).decode()
    if not answer:
        raise ConnectionResetError("the association ended")
    return answer
