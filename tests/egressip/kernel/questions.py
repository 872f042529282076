"""Questions without a connection (UDP, ping) whose answers are held back until the test wants them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from lab import Host, Lab
from tests.egressip.kernel.egress_cluster import SERVICE, SERVICE6

PORT = 8000
TIMEOUT = 2.0
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_SERVICES = {4: SERVICE, 6: SERVICE6}


@dataclass(frozen=True)
class Question:
    """What the service got: its text, the address it came from, and all that an answer needs."""

    text: str
    source: str
    peer: tuple[Any, ...]
    echo: bytes


class Flow:
    """One flow of a pod; the service's end of all flows of a kind and a family is one socket."""

    def __init__(self, pod: Host, kind: str, version: int, service: socket.socket, number: int) -> None:
        self.name = f"{kind}{version} of {pod.name}"
        self.pod, self.kind, self.version = pod, kind, version
        self.service, self._number, self._sent = service, number, 0
        self._socket = _open(pod, kind, version)
        self._socket.connect((_SERVICES[version], PORT if kind == "udp" else 0))

    def ask(self) -> Question:
        """Send a question; return it as the service gets it. Raises TimeoutError when it does not."""
        self._sent += 1
        text = f"{self.name} {self._sent}"
        self._send(self._socket, text, _REQUEST[self.version], self._number)
        while True:
            data, peer = self.service.recvfrom(2048)
            if self._text(data) == text.encode():
                echo = b"" if self.kind == "udp" else _payload(data, self.version)[4:8]
                return Question(text, str(ip_address(peer[0])), peer, echo)

    def source(self, timeout: float) -> str:
        """Return the source that a question arrives with, "" when it does not."""
        self.service.settimeout(timeout)
        try:
            return self.ask().source
        except TimeoutError:
            return ""
        finally:
            self.service.settimeout(TIMEOUT)

    def answer(self, question: Question) -> None:
        """Answer a question; the pod must get it. Raises TimeoutError when it does not."""
        if self.kind == "udp":
            self.service.sendto(question.text.encode(), question.peer)
        else:
            self.service.sendto(_icmp(self.version, _REPLY[self.version], question.echo, question.text), question.peer)
        while True:
            if self._text(self._socket.recv(2048)) == question.text.encode():
                return

    def close(self) -> None:
        self._socket.close()

    def _text(self, data: bytes) -> bytes:
        return data if self.kind == "udp" else _payload(data, self.version)[8:]

    def _send(self, sender: socket.socket, text: str, type_: int, number: int) -> None:
        if self.kind == "udp":
            sender.send(text.encode())
        else:
            sender.send(_icmp(self.version, type_, struct.pack("!HH", number, self._sent), text))


@contextmanager
def flows(lab: Lab, pods: list[Host]) -> Iterator[list[Flow]]:
    """Yield a flow of each kind and family for each pod. The service's kernel answers no ping meanwhile."""
    host = lab.services
    host.sysctl("net.ipv4.icmp_echo_ignore_all", 1)
    host.sysctl("net.ipv6.icmp.echo_ignore_all", 1)
    with ExitStack() as stack:
        found = []
        for kind in ("udp", "ping"):
            for version in (4, 6):
                service = stack.enter_context(_open(host, kind, version))
                service.bind((_SERVICES[version], PORT if kind == "udp" else 0))
                for number, pod in enumerate(pods):
                    found.append(Flow(pod, kind, version, service, 7000 + number))
                    stack.callback(found[-1].close)
        yield found


def _open(host: Host, kind: str, version: int) -> socket.socket:
    if kind == "udp":
        opened = host.socket(_AF[version], socket.SOCK_DGRAM)
    else:
        opened = host.socket(_AF[version], socket.SOCK_RAW, 1 if version == 4 else 58)
    opened.settimeout(TIMEOUT)
    return opened


def _payload(data: bytes, version: int) -> bytes:
    """Take the IP header off, which raw sockets of IPv4 alone show (raw(7))."""
    return data[(data[0] & 0xF) * 4 :] if version == 4 else data


def _icmp(version: int, type_: int, echo: bytes, text: str) -> bytes:
    """Return an echo message (RFC 792, RFC 4443); the kernel fills in the checksum of IPv6."""
    body = echo + text.encode()
    if version == 6:
        return struct.pack("!BBH", type_, 0, 0) + body
    words = struct.pack("!BBH", type_, 0, 0) + body
    words += bytes(len(words) % 2)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBH", type_, 0, ~(total + (total >> 16)) & 0xFFFF) + body
