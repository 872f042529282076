"""keepalived as it is installed: what it makes of what we tell it, and of an interface that is made anew."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from egress_router.daemon.loop import Loop
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.redirect.pair.election import Election
from egress_router.redirect.pair.keepalived import Place
from egress_router.redirect.pair.pair import Pair
from egress_router.redirect.pair.values import PairConfig, Role
from tests.net.contract.conftest import namespace

pytestmark = [pytest.mark.root, pytest.mark.usefixtures(namespace.__name__)]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def make_interface(pair: Pair) -> None:
    ip("link", "add", "egress", "type", "veth", "peer", "name", "lan")
    for name in ("lan", "egress"):
        ip("link", "set", name, "addrgenmode", "none", "up")
    with Rtnetlink() as kernel:
        link = kernel.link("egress")
    assert link is not None
    pair.open(link.name, link.index, link.mac)


def turn_until(loop: Loop, condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, what
        loop.turn(time.monotonic() + 0.05)


def test_an_interface_that_is_made_anew_is_one_to_be_active_on() -> None:
    ip("link", "set", "lo", "up")
    loop = Loop()
    with tempfile.TemporaryDirectory(prefix="pair-") as name:
        pair = Pair(PairConfig(46, interval=0.05, directory=Path(name)), loop, (ip_address("192.0.2.46"),))
        make_interface(pair)
        pair.election.prepare("egress", IPv4Address("169.254.7.1"), IPv4Address("127.1.2.3"))
        pair.start(listen=False)
        try:
            turn_until(loop, lambda: pair.state.role is Role.ACTIVE, "it is alone, and becomes active")
            ip("link", "del", "egress")
            turn_until(loop, lambda: pair.state.role is Role.FAULT, "it has nothing to be active on")
            make_interface(pair)
            turn_until(loop, lambda: pair.state.role is Role.ACTIVE, "it is active again")
            pair.block("another machine has the address")
            turn_until(loop, lambda: pair.state.role is Role.FAULT, "it leaves the address to that")
        finally:
            pair.close()
            loop.close()


def test_what_keepalived_says_while_it_is_stopped_is_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has seen that there is something to read, and does what others have posted first."""
    program = tmp_path / "keepalived"
    program.write_text('#!/bin/sh\ncase "$*" in *config-test*) exit;; esac\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    roles: list[Role] = []
    loop = Loop()
    election = Election(PairConfig(46, directory=tmp_path), loop, lambda role, _: roles.append(role))
    election.prepare("macvlan0", IPv4Address("169.254.7.1"), IPv4Address("127.1.2.3"))
    election.start()
    with Place(tmp_path / "pair").fifo.open("w") as told:
        told.write('INSTANCE "router" MASTER 200\n')
    child = election._child
    assert child is not None
    child.signal(signal.SIGKILL)
    select.select([child.output], [], [], 5)
    loop.post(election.stop)
    loop.turn()
    assert not roles
    loop.close()
