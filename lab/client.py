"""One question and its answer over TCP, UDP or SCTP, from inside a host of the lab."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from lab.addressing import Address

if TYPE_CHECKING:
    from lab.host import Host


class NoReply(Exception):
    """No answer came. ``reason`` is refused, timeout, unreachable, reset or closed."""

    def __init__(self, reason: str, what: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {what}")


def reason_of(error: OSError) -> str:
    """Return one word for a socket error."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError):
        return "reset"
    return "unreachable"


def connect(
    host: Host, address: Address, port: int, timeout: float, kind: int = socket.SOCK_STREAM, protocol: int = 0
) -> socket.socket:
    """Return a socket in ``host`` that is connected; it keeps ``timeout`` (seconds) for what follows."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    opened = host.socket(family, kind, protocol)
    try:
        opened.settimeout(timeout)
        opened.connect((str(address), port))
    except OSError as error:
        opened.close()
        raise NoReply(reason_of(error), f"{host.name} to {address} port {port}: {error}") from error
    return opened


def tcp(host: Host, address: Address, port: int, payload: str, timeout: float) -> str:
    """Connect, send ``payload``, end the sending side, and return all that comes until the server closes."""
    with connect(host, address, port, timeout) as opened:
        try:
            opened.sendall(payload.encode())
            opened.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := opened.recv(65536):
                answer += chunk
        except OSError as error:
            raise NoReply(reason_of(error), f"{host.name} to {address} port {port}/tcp: {error}") from error
    if not answer:
        raise NoReply("closed", f"{host.name} to {address} port {port}/tcp: closed without an answer")
    return answer.decode()


def udp(host: Host, address: Address, port: int, payload: str, timeout: float) -> str:
    """Send one datagram and return the first that comes back."""
    with connect(host, address, port, timeout, socket.SOCK_DGRAM) as opened:
        try:
            opened.send(payload.encode())
            return opened.recv(65536).decode()
        except OSError as error:
            raise NoReply(reason_of(error), f"{host.name} to {address} port {port}/udp: {error}") from error


def sctp(host: Host, address: Address, port: int, payload: str, timeout: float) -> str:
    """Associate, send ``payload`` as one message, and return the first that comes back (RFC 9260, one-to-one style)."""
    with connect(host, address, port, timeout, protocol=socket.IPPROTO_SCTP) as opened:
        try:
            opened.sendall(payload.encode())
            answer = opened.recv(65536)
        except OSError as error:
            raise NoReply(reason_of(error), f"{host.name} to {address} port {port}/sctp: {error}") from error
    if not answer:
        raise NoReply("closed", f"{host.name} to {address} port {port}/sctp: closed without an answer")
    return answer.decode()
