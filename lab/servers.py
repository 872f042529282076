"""Servers of the outside world: echo and HTTP, each a child process in its host's namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.addressing import Address
from lab.child import Child

if TYPE_CHECKING:
    from lab.host import Host

Ports = int | Iterable[int]


def port_list(ports: Ports) -> list[int]:
    """Return one port or several as a list."""
    return [ports] if isinstance(ports, int) else list(ports)


class Echo:
    """A server that answers ``PEER_IP PEER_PORT LOCAL_IP LOCAL_PORT PAYLOAD`` on ports of an address."""

    def __init__(
        self, host: Host, address: Address, tcp: Ports, udp: Ports, sctp: Ports = (), stay: bool = False
    ) -> None:
        self.host, self.address = host, address
        ports = {"tcp": port_list(tcp), "udp": port_list(udp), "sctp": port_list(sctp)}
        settings = {"address": str(address), **ports, "stay": stay}
        # What outlives us must not hold on to our standard error, which somebody may be reading to its end.
        stderr = subprocess.DEVNULL if stay else None
        self._child = Child("echo.py", settings, prefix=host.command([]), stderr=stderr)

    def close(self) -> None:
        """End it: its ports are closed when this returns."""
        self._child.close()


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the HTTP server saw. ``time`` is in seconds since the epoch, ``body`` is latin-1 text."""

    time: float
    peer: str
    local: str
    method: str
    path: str
    headers: dict[str, str]
    body: str


class HttpServer:
    """An HTTP/1.1 server (one thread per connection) on one address and port.

    ``/bytes/N`` sends N bytes (``?seconds=S``: spread over S seconds), ``/stream/N?seconds=S`` N chunks without a
    length, ``/wait/S`` answers after S seconds, ``/status/404`` has that status, ``/headers`` sends the request's
    headers as JSON, and anything else ``PEER_IP PEER_PORT LOCAL_IP LOCAL_PORT METHOD PATH`` and the request's body.
    """

    def __init__(self, host: Host, address: Address, port: int) -> None:
        self.host, self.address, self.port = host, address, port
        self._child = Child("http_origin.py", {"address": str(address), "port": port}, prefix=host.command([]))

    @property
    def url(self) -> str:
        """The server's URL by address, without a final slash."""
        literal = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"http://{literal}" + ("" if self.port == 80 else f":{self.port}")

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order of their arrival."""
        return [Request(**seen) for seen in self._child.ask({})]

    def close(self) -> None:
        """End it."""
        self._child.close()
