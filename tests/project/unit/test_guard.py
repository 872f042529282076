"""The guard itself: a guard that lets things through would let every other unit test lie."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.support.guard import Guard, Refused

ATTEMPTS: list[Callable[[], object]] = [
    socket.socket,
    lambda: socket.create_connection(("localhost", 9)),
    lambda: socket.getaddrinfo("localhost", 80),
    socket.socketpair,
    lambda: subprocess.run(["true"]),
    lambda: os.system("true"),  # noqa: S605
    os.fork,
    lambda: os.posix_spawn("/bin/true", ["true"], {}),
    lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),  # noqa: S606
]


@pytest.mark.parametrize("number", range(len(ATTEMPTS)))
def test_refuses(number: int, guard: Guard) -> None:
    with pytest.raises(Refused):
        ATTEMPTS[number]()
    assert guard.violations
    guard.violations.clear()


def open_socket_and_carry_on(swallow: type[BaseException]) -> None:
    with suppress(swallow):
        socket.socket()


def test_refusal_gets_past_broad_handlers(guard: Guard) -> None:
    with pytest.raises(Refused):
        open_socket_and_carry_on(swallow=Exception)
    guard.violations.clear()


def test_swallowed_refusal_fails_at_the_end(guard: Guard) -> None:
    watching = guard.watching()
    watching.__enter__()
    open_socket_and_carry_on(swallow=BaseException)
    with pytest.raises(AssertionError, match="reached for the system"):
        watching.__exit__(None, None, None)
    guard.violations.clear()
