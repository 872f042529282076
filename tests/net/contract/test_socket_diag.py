"""The kernel's own list of TCP sockets, and their end."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from ipaddress import ip_address

import pytest

from egress_router.net import socket_diag
from egress_router.net.socket_diag import TcpConnection, connections, end, listening_ports
from tests.net.contract.conftest import namespace

pytestmark = [pytest.mark.root, pytest.mark.usefixtures(namespace.__name__)]


@pytest.fixture(autouse=True)
def loopback(namespace: None) -> None:
    """The only interface of the namespace."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_is_found_and_ended(family: socket.AddressFamily, host: str) -> None:
    with (
        socket.create_server((host, 8080), family=family) as server,
        socket.create_connection((host, 8080)) as client,
        server.accept()[0] as accepted,
        socket.create_connection((host, 8080)) as other,
    ):
        assert listening_ports() == {8080}
        own = client.getsockname()[1]
        (found,) = (item for item in connections() if item.port == own)
        assert found.address == ip_address(host)
        assert end([found]) == 1
        assert end([found]) == 0
        with pytest.raises(ConnectionAbortedError):
            client.recv(1)
        with pytest.raises(ConnectionResetError):
            accepted.recv(1)
        other.sendall(b"it goes on")


def test_an_ipv4_connection_to_an_ipv6_socket_is_one_of_ipv4() -> None:
    """As Squid's and HAProxy's are."""
    with (
        socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        socket.create_connection(("127.0.0.1", 8080)) as client,
        server.accept()[0] as accepted,
    ):
        (found,) = (item for item in connections() if item.port == 8080)
        assert found.address == ip_address("127.0.0.1")
        assert end([found]) == 1
        with pytest.raises(ConnectionAbortedError):
            accepted.recv(1)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_nothing_to_end_is_no_question_to_the_kernel() -> None:
    assert end([]) == 0


def test_what_its_process_has_closed_is_no_connection() -> None:
    """A proxy that leaves would wait a minute for servers that keep their half."""
    with socket.create_server(("127.0.0.1", 8080)) as server, socket.create_connection(("127.0.0.1", 8080)) as client:
        server.accept()[0].close()
        assert client.recv(1) == b""
        half, end_at = client.getsockname()[1], time.monotonic() + 5
        # Until the client's kernel has acknowledged the end, a delayed acknowledgement later.
        while (found := [item.port for item in connections()]) != [half] and time.monotonic() < end_at:
            time.sleep(0.01)
        assert found == [half], "it can still be written to"


class Kernel:
    """Answers with errors, one after the other."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def sendto(self, *_: object) -> None:
        pass

    def recv(self, _: int) -> bytes:
        return bytes(16) + struct.pack("=i", -self.numbers.pop(0))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *numbers: monkeypatch.setattr(socket_diag, "_kernel", lambda: nullcontext(Kernel(*numbers)))


def test_one_that_cannot_be_ended_keeps_no_other(kernel: Callable[..., None]) -> None:
    """Before Linux 6.0 the kernel refuses to end what has come to TIME_WAIT since it was listed."""
    three = [TcpConnection(ip_address("127.0.0.1"), port, b"") for port in (1, 2, 3)]
    kernel(errno.EOPNOTSUPP, 0, errno.ENOENT)
    assert end(three) == 1
    kernel(errno.EOPNOTSUPP, errno.EOPNOTSUPP, errno.EOPNOTSUPP)
    with pytest.raises(OSError, match=r"not supported"):
        end(three)
