"""Tracked connections, as far as translation goes, listed and ended by netlink.

See linux/netfilter/nfnetlink_conntrack.h (CTA_*), nf_conntrack_common.h (IPS_*), nf_conntrack_tcp.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from ipaddress import ip_address
from operator import itemgetter
from typing import Any

from egress_router.config.files import read_kernel_text
from egress_router.config.values import Address, Protocol
from egress_router.net.closing import Closing
from egress_router.net.netlink import NETLINK_NETFILTER, NLM_F_ACK, NLM_F_DUMP, Netlink, attribute, attributes
from egress_router.records import dataclass


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection (or UDP flow) of a client to ``port`` of the pod's ``address``.

    ``reply_address`` and ``reply_port`` are where it was sent, ``reply_to`` is the address that answers go to.
    ``translated``: its destination was changed. ``answered``: a packet has come back. ``live``: it can still carry data
    (a TCP connection between its first SYN and its last FIN; never a UDP flow, which has no end).
    ``timeout`` is how many seconds from now it is forgotten if no packet of it comes; 0 of an ``offloaded`` one, which
    goes by a flow table and whose state and timeout the kernel does not tell. ``mark`` is its connection mark:
    HostName.mark where a rule with a name has sent it. ``key`` is the kernel's name for it, as bytes.
    """

    protocol: Protocol
    address: Address
    port: int
    reply_address: Address
    reply_port: int
    reply_to: Address
    translated: bool
    answered: bool
    live: bool
    timeout: int
    key: bytes
    mark: int = 0
    offloaded: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """A connection by who started it: ``answers_from`` is where it really went, ``answers_to`` the source that it left
    with, ``mark`` its connection mark, ``protocol`` the number of its IP protocol, ``key`` the kernel's name for it, as
    bytes.
    """

    source: Address
    answers_from: Address
    answers_to: Address
    mark: int
    protocol: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection (or UDP flow) that leaves with another source address than its ``client`` has; the other fields are
    those of Connection.
    """

    protocol: Protocol
    client: str
    live: bool
    timeout: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Use:
    """What connections share that need a source port each: their ``source``, protocol, and where they go."""

    source: Address
    protocol: Protocol
    remote: Address
    port: int


@dataclass(frozen=True, slots=True)
class Tracked:
    """A connection of any protocol; ``key`` is the kernel's name for it, as bytes."""

    key: bytes


_NEW, _GET, _DELETE, _GET_STATS = 0x0100, 0x0101, 0x0102, 0x0105
_TUPLE_ORIGINAL, _TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _MARK, _ID, _ZONE = 1, 2, 3, 4, 7, 8, 12, 18
_MARK_MASK = 21
#: nfgenmsg of a request for all families.
_EVERYTHING = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SEEN_REPLY, _DESTINATION_CHANGED, _OFFLOADED = 0x2, 0x20, 0x4000
#: nf_conntrack_tcp.h: SYN_SENT to LAST_ACK; what is over (TIME_WAIT, CLOSE) lingers for minutes.
_LIVE_STATES = range(1, 7)
#: A connection that a flow table had has no window that a reset could be judged by: it keeps this state, and gets the
#: timeout of CLOSE (nf_conntrack_tcp_timeout_close, seconds; that of its state is days).
_ESTABLISHED, _CLOSE_SECONDS = 3, 10
#: Where ``_kind`` has the address that answers go to.
_REPLY_TO = 4
_PORTS = struct.Struct("!H")
#: Bytes of the two heads, netlink's and netfilter's, that stand before the attributes.
_HEADS = 20
_BATCH = 64
_ADDRESS_SIZE = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}
_PROTOCOLS = {protocol.number: protocol for protocol in Protocol}
_COUNT, _LIMIT = "nf_conntrack_count", "nf_conntrack_max"
_SYSCTL = "/proc/sys/net/netfilter"
_STATISTICS = "/proc/net/stat/nf_conntrack"


class Conntrack(Closing):
    """A netlink socket to the connection tracking of the namespace it is made in."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def connections(self, addresses: Iterable[Address]) -> Iterator[Connection]:
        """Yield the connections that clients made to ``addresses``. Raises PlatformError.

        The kernel's list may change underneath: what was there all the time is in it.
        """
        wanted = {address.packed: address for address in addresses}
        known: dict[bytes, Address] = dict(wanted)
        for message in self._messages():
            found = _connection(message, wanted, known)
            if found is not None:
                yield found

    def choose(self, addresses: Iterable[Address], wanted: Callable[[Connection], bool]) -> list[Connection]:
        """Return those of ``connections(addresses)`` for which ``wanted`` says so; it must not look at their mark,
        their timeout or whether they are live: it is asked once for all that are the same but for that.
        """
        own = {address.packed: address for address in addresses}
        known: dict[bytes, Address] = dict(own)
        verdicts: dict[tuple[Any, ...], bool] = {}
        found: list[Connection] = []
        for message in self._messages():
            kind = _kind(message)
            verdict = None if kind is None else verdicts.get(kind)
            if verdict is False:
                continue
            connection = _connection(message, own, known)
            if verdict is None:
                verdict = connection is not None and wanted(connection)
                if kind is not None:
                    verdicts[kind] = verdict
            if verdict and connection is not None:
                found.append(connection)
        return found

    def leaving_as(self, sources: Iterable[Address]) -> Iterator[Flow]:
        """Yield the connections that leave with one of ``sources``: answers go to it. Raises PlatformError."""
        wanted = {address.packed for address in sources}
        for message in self._messages():
            kind = _kind(message)
            if kind is None or kind[_REPLY_TO] in wanted:
                found = _flow(message, wanted)
                if found is not None:
                    yield found

    def ports_used(self, sources: Iterable[Address]) -> Iterator[Use]:
        """Yield one for each connection (TCP, UDP, SCTP) that leaves with one of ``sources``. Raises PlatformError."""
        wanted = {address.packed: address for address in sources}
        known: dict[tuple[Any, ...], Use] = {}
        for message in self._messages():
            kind = _kind(message)
            if kind is None or kind[_REPLY_TO] not in wanted or kind[1] not in _PROTOCOLS:
                continue
            key = kind[1], kind[3], kind[_REPLY_TO], kind[5]
            use = known.get(key)
            if use is None:
                (port,) = _PORTS.unpack(kind[5])
                use = Use(wanted[kind[_REPLY_TO]], _PROTOCOLS[kind[1]], ip_address(kind[3]), port)
                known[key] = use
            yield use

    def end(self, connections: Iterable[Connection | Started | Tracked]) -> int:
        """Forget ``connections``, so that their next packets are looked at anew; return how many. Those that are gone
        already are fine. Raises PlatformError.
        """
        keys = [connection.key for connection in connections]
        for start in range(0, len(keys), _BATCH):
            requests = [(_DELETE, NLM_F_ACK, key) for key in keys[start : start + _BATCH]]
            self._netlink.change_all(requests, "end tracked connections", fine={errno.ENOENT})
        return len(keys)

    def started(self, sources: Iterable[Address], wanted: Callable[[Started], bool]) -> list[Started]:
        """Return those connections that ``sources`` started and of which ``wanted`` says so. Raises PlatformError."""
        own = {address.packed: address for address in sources}
        chosen = []
        for message in self._messages():
            # The tuple of the original direction comes first, and its source address first in it.
            first = _HEADS + 12
            source = own.get(message[first : first + _ADDRESS_SIZE.get(message[_HEADS - 4], 0)])
            if source is None:
                continue
            found = _parts(message)
            answers_from, answers_to, protocol, _, _ = _tuple(message, *found[_TUPLE_REPLY])
            connection = Started(
                source,
                ip_address(answers_from),
                ip_address(answers_to),
                _word(message, found, _MARK),
                protocol,
                _key(message, found),
            )
            if wanted(connection):
                chosen.append(connection)
        return chosen

    def check(self) -> None:
        """Ask how many connections there are. Raises PlatformError where the kernel cannot list connections,
        CapabilityError without NET_ADMIN.
        """
        for _ in self._netlink.stream(_GET_STATS, NLM_F_ACK, _EVERYTHING, "count the tracked connections"):
            pass

    def marked(self, value: int, mask: int) -> list[Tracked]:
        """Return the connections of any protocol and family whose mark is ``value`` under ``mask``. Raises
        PlatformError. The kernel chooses, so it costs little where few of many connections match.
        """
        wanted = attribute(_MARK, struct.pack("!I", value)) + attribute(_MARK_MASK, struct.pack("!I", mask))
        found = []
        for message in self._messages(wanted):
            parts = _parts(message)
            # A kernel that does not know the mask lists more than was asked for.
            if _word(message, parts, _MARK) & mask == value:
                found.append(Tracked(_key(message, parts)))
        return found

    def set_mark(self, connections: Iterable[Tracked | Started], value: int, mask: int) -> int:
        """Give connections the mark ``value`` under ``mask``, other bits stay; return how many. Those that are gone
        are fine. Raises PlatformError.
        """
        mark = attribute(_MARK, struct.pack("!I", value)) + attribute(_MARK_MASK, struct.pack("!I", mask))
        keys = [connection.key for connection in connections]
        for start in range(0, len(keys), _BATCH):
            requests = [(_NEW, NLM_F_ACK, key + mark) for key in keys[start : start + _BATCH]]
            self._netlink.change_all(requests, "change the marks of tracked connections", fine={errno.ENOENT})
        return len(keys)

    def replying_to(self, addresses: Iterable[Address]) -> list[Tracked]:
        """Return the connections of any protocol whose answers go to one of ``addresses``. Raises PlatformError."""
        wanted = {address.packed for address in addresses}
        found = []
        for message in self._messages():
            parts = _parts(message)
            if _TUPLE_REPLY in parts and _tuple(message, *parts[_TUPLE_REPLY])[1] in wanted:
                found.append(Tracked(_key(message, parts)))
        return found

    def _messages(self, wanted: bytes = b"") -> Iterator[bytes]:
        for _, _, message in self._netlink.stream(
            _GET, NLM_F_DUMP, _EVERYTHING + wanted, "list the tracked connections"
        ):
            yield message


def insert_failures() -> int:
    """Return how many packets were dropped since the boot because their connection clashed with another one, as when no
    source port is left; 0 where the kernel does not tell. Of this network namespace, see nf_conntrack_standalone.c.
    """
    try:
        head, *lines = read_kernel_text(_STATISTICS).splitlines()
        column = head.split().index("insert_failed")
        return sum(int(line.split()[column], 16) for line in lines)
    except (OSError, ValueError, IndexError):
        return 0


def nothing_tracked() -> bool:
    """Whether the kernel says that there is no connection in this network namespace: to list them it goes through a
    table that all namespaces share, which takes it some 10 ms.
    """
    try:
        return int(read_kernel_text(f"{_SYSCTL}/{_COUNT}")) == 0
    except (OSError, ValueError):
        return False


def fill() -> tuple[int, int]:
    """Return (tracked connections, the most there can be); zeros where the kernel does not tell."""
    try:
        return int(read_kernel_text(f"{_SYSCTL}/{_COUNT}")), int(read_kernel_text(f"{_SYSCTL}/{_LIMIT}"))
    except (OSError, ValueError):
        return 0, 0


def _kind(data: bytes) -> tuple[Any, ...] | None:
    """Return all that ``Conntrack.choose`` may depend on, in a twentieth of the time that it takes to read a message;
    None where it does not stand where it usually does.
    """
    layout = _LAYOUTS.get(data[_HEADS - 4])
    if layout is None:
        return None
    size, place = layout
    second = _HEADS + size
    if data[_HEADS] != size or data[second] != size or data[second + size + 2] != _STATUS:
        return None
    found: tuple[Any, ...] = place(data)
    return found


def _layout(address: int) -> tuple[int, itemgetter[tuple[Any, ...]]]:
    """Return how large a tuple with ports is, and what takes a message of two tuples and a status apart."""
    # Heads of the tuple, of its addresses and of the first one; a head stands before each other value as well.
    source, destination = 12, 16 + address
    number = destination + address + 8
    from_port, to_port, size = number + 8, number + 16, number + 20
    first, second = _HEADS, _HEADS + size
    return size, itemgetter(
        slice(first + destination, first + destination + address),
        first + number,
        slice(first + to_port, first + to_port + 2),
        slice(second + source, second + source + address),
        slice(second + destination, second + destination + address),
        slice(second + from_port, second + from_port + 2),
        slice(second + size + 4, second + size + 8),
    )


_LAYOUTS = {int(socket.AF_INET): _layout(4), int(socket.AF_INET6): _layout(16)}


def _parts(data: bytes) -> dict[int, tuple[int, int]]:
    """Return where each attribute of a message begins and ends."""
    return {type_: (start, stop) for type_, start, stop in attributes(data, _HEADS, len(data))}


def _connection(data: bytes, wanted: dict[bytes, Address], known: dict[bytes, Address]) -> Connection | None:
    """Read a message; None when it is no connection to one of ``wanted``. ``known`` keeps one object per address."""
    found = _parts(data)
    original, reply = found.get(_TUPLE_ORIGINAL), found.get(_TUPLE_REPLY)
    if original is None or reply is None:
        return None
    _, address, number, port, _ = _tuple(data, *original)
    protocol = _PROTOCOLS.get(number)
    if protocol is None or address not in wanted:
        return None
    reply_address, reply_to, _, _, reply_port = _tuple(data, *reply)
    (status,) = struct.unpack_from("!I", data, found[_STATUS][0])
    for packed in (reply_address, reply_to):
        if packed not in known:
            known[packed] = ip_address(packed)
    return Connection(
        protocol=protocol,
        address=wanted[address],
        port=port,
        reply_address=known[reply_address],
        reply_port=reply_port,
        reply_to=known[reply_to],
        translated=bool(status & _DESTINATION_CHANGED),
        answered=bool(status & _SEEN_REPLY),
        live=_live(data, found, protocol),
        timeout=_word(data, found, _TIMEOUT),
        key=_key(data, found),
        mark=_word(data, found, _MARK),
        offloaded=bool(status & _OFFLOADED),
    )


def _flow(data: bytes, wanted: Container[bytes]) -> Flow | None:
    """Read a message; None when answers to it do not go to one of ``wanted``."""
    found = _parts(data)
    if _TUPLE_ORIGINAL not in found or _TUPLE_REPLY not in found:
        return None
    client, _, number, _, _ = _tuple(data, *found[_TUPLE_ORIGINAL])
    protocol = _PROTOCOLS.get(number)
    if protocol is None or _tuple(data, *found[_TUPLE_REPLY])[1] not in wanted:
        return None
    return Flow(
        protocol=protocol,
        client=str(ip_address(client)),
        live=_live(data, found, protocol),
        timeout=_word(data, found, _TIMEOUT),
        key=_key(data, found),
    )


def _key(data: bytes, found: Mapping[int, tuple[int, int]]) -> bytes:
    """Return the kernel's name for a connection: family, original tuple, zone, number."""
    key = data[_HEADS - 4 : _HEADS]
    for type_ in (_TUPLE_ORIGINAL, _ZONE, _ID):
        if type_ in found:
            start, stop = found[type_]
            # With its head (which holds the flag of a nested one) and its padding.
            key += data[start - 4 : start + ((stop - start + 3) & ~3)]
    return key


def _word(data: bytes, found: Mapping[int, tuple[int, int]], type_: int) -> int:
    """Return an attribute of 32 bits; 0 where it is absent."""
    word: int = struct.unpack_from("!I", data, found[type_][0])[0] if type_ in found else 0
    return word


def _live(data: bytes, found: Mapping[int, tuple[int, int]], protocol: Protocol) -> bool:
    if protocol is Protocol.UDP:
        return False
    if _word(data, found, _STATUS) & _OFFLOADED:
        # Its state is not told. It is ESTABLISHED: what ends a connection takes it out of the flow table.
        return True
    state = _state(data, found.get(_PROTOINFO))
    if protocol is Protocol.TCP and state == _ESTABLISHED and _word(data, found, _TIMEOUT) <= _CLOSE_SECONDS:
        return False
    return state in _LIVE_STATES


def _tuple(data: bytes, at: int, end: int) -> tuple[bytes, bytes, int, int, int]:
    """Return (source, destination, protocol number, destination port, source port)."""
    source = destination = b""
    number = to_port = from_port = 0
    for type_, start, stop in attributes(data, at, end):
        if type_ == _TUPLE_IP:
            # CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST
            for kind, first, last in attributes(data, start, stop):
                if kind in (1, 3):
                    source = data[first:last]
                elif kind in (2, 4):
                    destination = data[first:last]
        elif type_ == _TUPLE_PROTO:
            # CTA_PROTO_NUM, _SRC_PORT, _DST_PORT
            for kind, first, _ in attributes(data, start, stop):
                if kind == 1:
                    number = data[first]
                elif kind == 2:
                    (from_port,) = _PORTS.unpack_from(data, first)
                elif kind == 3:
                    (to_port,) = _PORTS.unpack_from(data, first)
    return source, destination, number, to_port, from_port


def _state(data: bytes, place: tuple[int, int] | None) -> int:
    """Return the state from CTA_PROTOINFO_TCP or _SCTP: the first attribute of either; 0 when there is none."""
    if place is None:
        return 0
    for _, start, stop in attributes(data, *place):
        for _, first, _ in attributes(data, start, stop):
            return data[first]
    return 0
