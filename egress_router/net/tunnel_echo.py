"""ICMP echoes that go to nodes through a tunnel's device, each way and size of them a leg of its own.

The kernel of the other node answers. What a leg shows is all of its way: rules and routes of the mark, the device, the
network between the nodes, and the way of the answer. See RFC 792, RFC 4443, socket(7), ip(7), ipv6(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum

_ECHO_REQUEST = {4: 8, 6: 128}
_IP_HEADER = {4: 20, 6: 40}
_ICMP_HEADER = 8
_SO_MARK, _SO_BINDTODEVICE = 36, 25
#: Never fragment, whatever is known of the path: ip(7), RFC 3542 section 11.2.
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_IPV6_MTU_DISCOVER, _IPV6_DONTFRAG = 23, 62
#: Echoes of the legs in SELDOM are sent in every so many rounds, and in each one after an answer was missed, until so
#: many were missed in a row.
SELDOM_ROUNDS, QUICK_MOST = 4, 16


class Leg(IntEnum):
    """Which way a probe takes. ``DIRECT``: not through the tunnel. ``TUNNEL``: through it, and back to the node's own
    address. ``BACK``: the answer goes to an address among the node's pods, as answers to pods do. ``FULL_SIZE``: with
    the size of the largest packet. The numbers tell the echoes apart.
    """

    DIRECT = 0
    TUNNEL = 1
    BACK = 2
    FULL_SIZE = 3


SELDOM = frozenset({Leg.BACK, Leg.FULL_SIZE})
_NONE: Mapping[str, set[Leg]] = {}


@dataclass(slots=True)
class SeldomLegs:
    """Which of the legs in SELDOM one node is asked by in each round: those that missed an answer while the node gave
    others. What is lost now and then is soon known from what is cut. Pure.
    """

    _missed: dict[Leg, int] = field(default_factory=dict)
    _answers: bool = False

    @property
    def quick(self) -> set[Leg]:
        """Those that are asked in each round now."""
        if not self._answers:
            # That nothing comes at all is told sooner by the others.
            return set()
        return {leg for leg, missed in self._missed.items() if missed < QUICK_MOST}

    def note(self, due: set[Leg], heard: set[Leg]) -> None:
        """Take in by which legs an answer was due in a round, and by which one has come; one that comes later counts in
        the next one.
        """
        self._answers = not heard <= SELDOM
        for leg in SELDOM:
            if leg in heard:
                self._missed.pop(leg, None)
            elif leg in due and self._answers:
                self._missed[leg] = min(self._missed.get(leg, 0) + 1, QUICK_MOST)


@dataclass(frozen=True, slots=True)
class TunnelWay:
    """How a node's probes get into the tunnel: by ``device``, with ``marks`` by the name of the other node. ``back`` is
    an address of this node among its pods, empty when there is none; ``size`` that of the largest packet, in bytes.
    """

    device: str
    marks: Mapping[str, int] = field(default_factory=dict)
    back: str = ""
    size: int = 0


def echo_request(version: int, ident: int, number: int, size: int = 0) -> bytes:
    """Return an echo request; ``size`` is that of the whole IP packet, 0 for the smallest. The kernel fills in the
    checksum of IPv6.
    """
    head = struct.pack("!BBHHH", _ECHO_REQUEST[version], 0, 0, ident, number)
    padding = bytes(max(0, size - _IP_HEADER[version] - _ICMP_HEADER))
    if version == 6:
        return head + padding
    # Zeros add nothing to the sum (RFC 1071).
    total = sum(struct.unpack("!4H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[4:] + padding


class TunnelEchoes:
    """Sends echoes through a tunnel. The answers come to sockets that are bound to no device: ``answers`` has one for
    those to the address among the pods, when there is one; the rest goes where the node's own address is listened to.
    """

    def __init__(self, host_ip: str, receiver: Callable[[str], socket.socket]) -> None:
        """``receiver`` opens a socket that hears the answers to an address; it may raise OSError."""
        self._host_ip = host_ip
        self._version = 6 if ":" in host_ip else 4
        self._receiver = receiver
        self._way: TunnelWay | None = None
        self._senders: dict[Leg, socket.socket] = {}
        #: The address that the leg BACK is for.
        self._back = ""
        #: Hears the answers of the leg BACK.
        self.answers: socket.socket | None = None

    def use(self, way: TunnelWay | None) -> None:
        """Send by this way from now on; None: send nothing."""
        self._way = way
        if way is None:
            return
        if way.back != self._back:
            self._back = way.back
            self._close_back()
        self._open_missing()

    def _open_missing(self) -> None:
        """Open what is not open. What cannot be opened now, since an address is not there or descriptors are used up,
        is tried again: a leg that is not probed would look as if it worked.
        """
        for leg in (Leg.TUNNEL, Leg.FULL_SIZE, *([Leg.BACK] if self._back else [])):
            if leg in self._senders:
                continue
            with suppress(OSError):
                if leg is Leg.BACK and self.answers is None:
                    self.answers = self._receiver(self._back)
                self._senders[leg] = self._sender(self._back if leg is Leg.BACK else self._host_ip)
                if leg is Leg.FULL_SIZE:
                    self._never_fragment(self._senders[leg])

    def _never_fragment(self, full: socket.socket) -> None:
        if self._version == 4:
            full.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        else:
            full.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            full.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)

    def _close_back(self) -> None:
        for one in (self._senders.pop(Leg.BACK, None), self.answers):
            if one is not None:
                one.close()
        self.answers = None

    def _sender(self, source: str) -> socket.socket:
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if self._version == 6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
            opened.bind((source, 0))
        except OSError:
            opened.close()
            raise
        return opened

    def send(
        self,
        number: int,
        ident: int,
        targets: Iterable[tuple[str, str]],
        *,
        seldom: bool,
        quick: Mapping[str, set[Leg]] = _NONE,
    ) -> dict[str, set[Leg]]:
        """Send to the nodes (name, address) that have a mark; return, by name, the legs that they were asked by. What
        cannot be sent counts as asked: nothing will come back. ``seldom``: by the legs in SELDOM, too, and else by
        those in ``quick``, by name.
        """
        way = self._way
        if way is None:
            return {}
        if seldom:
            self._open_missing()
        for leg in self._senders:
            # Each time: a device that was made anew is another one to the kernel.
            with suppress(OSError):
                self._senders[leg].setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, f"{way.device}\0".encode())
        asked: dict[str, set[Leg]] = {}
        for name, ip in targets:
            mark = way.marks.get(name)
            if mark is None:
                continue
            wanted = quick.get(name, ())
            legs = [leg for leg in self._senders if seldom or leg not in SELDOM or leg in wanted]
            asked[name] = set(legs)
            for leg in legs:
                data = echo_request(self._version, ident ^ leg, number, way.size if leg is Leg.FULL_SIZE else 0)
                with suppress(OSError):
                    self._senders[leg].setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
                    self._senders[leg].sendto(data, (ip, 0))
        return asked

    def close(self) -> None:
        """Close all sockets."""
        for one in (*self._senders.values(), *([self.answers] if self.answers else [])):
            one.close()
        self._senders, self.answers = {}, None


def random_ident() -> int:
    """Return a number for echoes: not the process number, for in containers of one host network several are process
    1. Its last bits are those of the legs.
    """
    return int.from_bytes(os.urandom(2)) & ~3
