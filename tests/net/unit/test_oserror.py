"""No OSError leaves egress_router.net: every one becomes an error of ours, with its exit code."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egress_router.errors import CapabilityError, EgressRouterError, PlatformError, TryAgainError
from egress_router.net import forked, netns
from egress_router.net.arp_nd import Neighbours
from egress_router.net.conntrack import Conntrack
from egress_router.net.icmp_probe import Prober
from egress_router.net.neighbour_watch import NeighbourWatch
from egress_router.net.netlink import NLM_F_ACK, Netlink, NetlinkError
from egress_router.net.notices import nftables_events, route_events
from egress_router.net.oserror import from_os
from egress_router.net.rtnetlink.kernel import Rtnetlink


class FakeSocket:
    """A socket whose methods named in ``failing`` raise what stands there; all others do nothing."""

    failing: dict[str, Exception]
    #: What ``recv`` gives, one after the other.
    answers: list[bytes]

    def __init__(self, *arguments: object) -> None:
        self._call("socket")

    def _call(self, name: str) -> None:
        error = self.failing.get(name)
        if error is not None:
            raise error

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self._call(name)

    def getsockopt(self, *arguments: object) -> int:
        return 1 << 20

    def recv(self, size: int) -> bytes:
        self._call("recv")
        return self.answers.pop(0)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have every socket made from now on fail as told: ``fail(recv=TimeoutError())``."""

    def prepare(*answers: bytes, **failing: Exception) -> None:
        kind = type("Fake", (FakeSocket,), {"failing": failing, "answers": list(answers)})
        monkeypatch.setattr(socket, "socket", kind)

    return prepare


def refusal(code: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -code) + bytes(16)


CODES = [
    (PermissionError(errno.EPERM, "Operation not permitted"), CapabilityError, 77),
    (OSError(errno.EACCES, "Permission denied"), CapabilityError, 77),
    (TimeoutError("timed out"), TryAgainError, 75),
    (OSError(errno.ENOBUFS, "No buffer space available"), TryAgainError, 75),
    (OSError(errno.EMFILE, "Too many open files"), TryAgainError, 75),
    (OSError(errno.EADDRINUSE, "Address already in use"), TryAgainError, 75),
    (OSError(errno.EPROTONOSUPPORT, "Protocol not supported"), PlatformError, 69),
    (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), PlatformError, 69),
    (OSError("no number at all"), PlatformError, 69),
]


@pytest.mark.parametrize(("error", "kind", "code"), CODES, ids=lambda value: str(value)[:40])
def test_codes(error: OSError, kind: type[EgressRouterError], code: int) -> None:
    found = from_os(error, "open a socket", "NET_RAW")
    assert type(found) is kind
    assert found.exit_code == code
    assert str(found).startswith("open a socket: ")
    assert ("NET_RAW" in str(found)) == (code == 77)


@pytest.mark.parametrize("step", ["socket", "bind", "setsockopt", "send", "recv"])
@pytest.mark.parametrize(("error", "kind", "code"), CODES[:8], ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("use", ["observe", "conntrack", "change all"])
def test_a_netlink_socket(
    fail: Callable[..., None], use: str, step: str, error: OSError, kind: type[EgressRouterError], code: int
) -> None:
    fail(**{step: error})
    uses: dict[str, Callable[[], object]] = {
        "observe": lambda: Rtnetlink().observe(),
        "conntrack": lambda: Conntrack().check(),
        "change all": lambda: Netlink().change_all([(1, NLM_F_ACK, b"")], "change"),
    }
    with pytest.raises(kind) as raised:
        uses[use]()
    assert raised.value.exit_code == code
    assert raised.value.__cause__ is error


def test_what_the_kernel_answers(fail: Callable[..., None]) -> None:
    fail(refusal(errno.EOPNOTSUPP))
    with pytest.raises(NetlinkError) as refused:
        Netlink().change_all([(1, NLM_F_ACK, b"")], "change")
    assert refused.value.code == errno.EOPNOTSUPP
    fail(refusal(errno.EPERM))
    with pytest.raises(CapabilityError, match="NET_ADMIN"):
        Netlink().change_all([(1, NLM_F_ACK, b"")], "change")


@pytest.mark.parametrize("make", [route_events, nftables_events])
@pytest.mark.parametrize("step", ["socket", "bind", "setsockopt", "recv"])
def test_notices(fail: Callable[..., None], make: Callable[[], Any], step: str) -> None:
    fail(**{step: PermissionError(errno.EPERM, "Operation not permitted")})
    with pytest.raises(CapabilityError):
        make().drain()


@pytest.mark.parametrize("kind", [Neighbours, NeighbourWatch])
def test_raw_sockets_for_neighbours(fail: Callable[..., None], kind: Callable[..., object]) -> None:
    fail(socket=PermissionError(errno.EPERM, "Operation not permitted"))
    with pytest.raises(CapabilityError, match="NET_RAW"):
        kind("eth0", 2, "02:00:00:00:00:01")
    for step in ("bind", "setsockopt"):
        fail(**{step: OSError(errno.ENODEV, "No such device")})
        with pytest.raises(TryAgainError, match="eth0"):
            kind("eth0", 2, "02:00:00:00:00:01")


@pytest.mark.parametrize(
    ("step", "error", "kind", "text"),
    [
        ("socket", PermissionError(errno.EPERM, "Operation not permitted"), CapabilityError, "NET_RAW"),
        ("bind", OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), PlatformError, "192.0.2.9"),
        ("bind", OSError(errno.EADDRINUSE, "Address already in use"), TryAgainError, "192.0.2.9"),
    ],
)
def test_raw_sockets_for_probes(
    fail: Callable[..., None], step: str, error: OSError, kind: type[EgressRouterError], text: str
) -> None:
    fail(**{step: error})
    with pytest.raises(kind, match=text):
        Prober("192.0.2.9", 4791, 1.0, lambda _: None)


def test_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_process)
    with pytest.raises(TryAgainError, match="iptables"):
        forked.start(["iptables"], lambda: None)


def test_namespaces(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot be opened"):
        netns.made_in(str(tmp_path / "none"), lambda: None)
