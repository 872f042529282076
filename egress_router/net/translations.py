"""Tracked connections that leave with another source address: told of as they begin and end, listed, and made on
another machine.

See linux/netfilter/nfnetlink_conntrack.h (CTA_*), nf_conntrack_common.h (IPS_*), nf_conntrack_tcp.h, linux/filter.h.

A connection is kept as few bytes, since there may be a hundred thousand: protocol, source, destination and the source
that it leaves with, then the source port, the destination port and the port that it leaves with; of an echo (ICMP) the
identifiers, and type and code in the place of the destination port. Whoever is another machine's standby needs no more:
what is open is open until the end is heard of, and a connection goes on with its own sequence numbers.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import itemgetter

from egress_router.config.values import Address
from egress_router.errors import PlatformError
from egress_router.net.closing import Closing
from egress_router.net.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Netlink,
    attribute,
    attributes,
)
from egress_router.net.oserror import from_os, translating

#: nfnetlink_conntrack.h, with the number of the subsystem.
_NEW, _GET, _DELETE = 0x0100, 0x0101, 0x0102
_ORIGINAL, _REPLY, _STATUS, _PROTOINFO, _NAT_SRC, _TIMEOUT, _MARK = 1, 2, 3, 4, 6, 7, 8
_IP, _PROTO = 1, 2
#: CTA_IP_*: source and destination of each family.
_ADDRESSES = {4: (1, 2), 6: (3, 4)}
#: CTA_PROTO_*: number, ports; identifier, type and code of an echo of each family.
_NUMBER, _FROM_PORT, _TO_PORT = 1, 2, 3
_ECHO_PARTS = {4: (4, 5, 6), 6: (7, 8, 9)}
#: CTA_NAT_*: lowest and highest address of each family, and the ports.
_NAT_ADDRESS, _NAT_PROTO = {4: (1, 2), 6: (4, 5)}, 3
_TCP_INFO, _TCP_STATE, _TCP_FLAGS = 1, 1, (4, 5)
#: A connection whose other packets nobody has seen: sequence numbers outside of a window that was never learned are
#: right (IP_CT_TCP_FLAG_BE_LIBERAL, and that it is to be changed).
_LIBERAL = bytes((0x08, 0x08))
#: IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED; IPS_SRC_NAT, IPS_DST_NAT.
_ESTABLISHED_STATUS = 0x02 | 0x04 | 0x08
_SOURCE_CHANGED, _DESTINATION_CHANGED = 0x10, 0x20
_ESTABLISHED, _LAST_ACK, _TIME_WAIT = 3, 6, 7
_ECHOES = {socket.IPPROTO_ICMP: (8, 0), socket.IPPROTO_ICMPV6: (128, 129)}
_PORTS = struct.Struct("!HHH")
_SIZES = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}
#: By the length of a record: that of its addresses.
_ADDRESS_SIZE = {1 + 3 * size + _PORTS.size: size for size in (4, 16)}
#: Bytes of netlink's and netfilter's heads; in the first, the low byte of the type and the high byte of the flags.
_HEADS = 20
_TYPE_AT, _FLAGS_AT = (4, 7) if sys.byteorder == "little" else (5, 6)
_BATCH = 32
_EVERYTHING = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
#: NFNLGRP_CONNTRACK_NEW, _UPDATE, _DESTROY.
_GROUPS = (1, 2, 3)
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_BUFFER = 16 << 20
_RECEIVE_BYTES = 1 << 14
#: So many events are taken at once.
_MOST_EVENTS = 4096
#: For how long a connection that was made is kept if nothing of it comes; a packet gives it what the kernel gives
#: others of its state. Seconds.
UNHEARD = {socket.IPPROTO_TCP: 3600, socket.IPPROTO_UDP: 120}
_UNHEARD_OTHER = 30


def record_sizes() -> tuple[int, int]:
    """Return how many bytes a connection takes, IPv4 and IPv6."""
    four, six = sorted(_ADDRESS_SIZE)
    return four, six


def source_of(record: bytes) -> bytes:
    """Return the source address, packed."""
    return record[1 : 1 + _ADDRESS_SIZE[len(record)]]


def translated_of(record: bytes) -> bytes:
    """Return the address that it leaves with, packed."""
    size = _ADDRESS_SIZE[len(record)]
    return record[1 + 2 * size : 1 + 3 * size]


def untranslated(record: bytes) -> bytes:
    """Return the same connection as one that leaves with its own source."""
    size = _ADDRESS_SIZE[len(record)]
    source, ports = record[1 : 1 + size], record[1 + 3 * size :]
    return record[: 1 + 2 * size] + source + ports[:4] + ports[:2]


class TranslationEvents(Closing):
    """A socket that hears, from the moment it is made, when a connection with another source is established and when it
    is over. A filter in the kernel keeps the rest out: the steps between, and what is not translated.
    """

    def __init__(self) -> None:
        with translating("hear of connections"):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
            )
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            _attach(self._socket, _events_filter())
            self._socket.bind((0, 0))
            for group in _GROUPS:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        #: Whether the kernel had to drop events since this was set to False.
        self.lost = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self) -> Iterator[tuple[bytes, bool]]:
        """Yield what has come, in order: each connection, and whether it is open. Raises EgressRouterError."""
        receive = self._socket.recv
        for _ in range(_MOST_EVENTS):
            try:
                message = receive(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise from_os(error, "hear of connections", "NET_ADMIN") from error
                self.lost = True
                continue
            found = _read(message)
            if found is not None:
                record, state = found
                yield record, message[_TYPE_AT] != _DELETE & 0xFF and state < _TIME_WAIT


def open_translations(translated: Collection[Address]) -> list[bytes]:
    """Return the connections that leave with one of these addresses and are not over. Raises PlatformError."""
    wanted = {address.packed for address in translated}
    found: list[bytes] = []
    with Netlink(NETLINK_NETFILTER) as netlink:
        for _, _, message in netlink.stream(_GET, NLM_F_DUMP, _EVERYTHING, "list the tracked connections"):
            read = _read(message)
            if read is not None and translated_of(read[0]) in wanted and _ESTABLISHED <= read[1] <= _LAST_ACK:
                found.append(read[0])
    return found


def make_translations(records: Iterable[bytes], mark_of: Callable[[bytes], int]) -> tuple[int, str]:
    """Make these connections, established, in the place of any with the same ends in either direction, so also of one
    that answers have begun which came here before. ``mark_of`` gives the connection mark by the source. Return how many
    were sent to the kernel and the last reason why it refused some, empty when it refused none. Raises nothing of
    single connections; PlatformError where none can be made.
    """
    count, refused = 0, ""
    with Netlink(NETLINK_NETFILTER) as netlink:
        former: list[tuple[int, int, bytes]] = []
        made: list[tuple[int, int, bytes]] = []

        def send() -> None:
            nonlocal refused
            try:
                netlink.change_all(former + made, "make tracked connections", fine={errno.ENOENT})
            except PlatformError as error:
                refused = str(error)
            former.clear()
            made.clear()

        for record in records:
            head, original, rest = _made(record, mark_of(source_of(record)))
            former += ((_DELETE, NLM_F_ACK, head + tuple_) for tuple_ in (original, *_answers(record)))
            made.append((_NEW, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, head + original + rest))
            count += 1
            if len(made) >= _BATCH:
                send()
        if made:
            send()
    return count, refused


def _read(message: bytes) -> tuple[bytes, int] | None:
    """Return a connection and its TCP state, ESTABLISHED where it has none; None for what is no translated connection
    that could be made elsewhere: its destination is changed, too, or it is of a protocol without ports that is no echo.
    """
    size = _SIZES.get(message[_HEADS - 4])
    if size is None:
        return None
    tuple_size, place = _LAYOUTS[size]
    second = _HEADS + tuple_size
    original = reply = None
    status, state = 0, _ESTABLISHED
    # Nearly all: two tuples with ports come first, at known places.
    usual = message[_HEADS] == tuple_size and message[second] == tuple_size
    for type_, start, stop in attributes(message, second + tuple_size if usual else _HEADS, len(message)):
        if type_ == _ORIGINAL:
            original = _tuple(message, start, size)
        elif type_ == _REPLY:
            reply = _tuple(message, start, size)
        elif type_ == _STATUS:
            (status,) = struct.unpack_from("!I", message, start)
        elif type_ == _PROTOINFO:
            state = _tcp_state(message, start, stop)
    if status & (_SOURCE_CHANGED | _DESTINATION_CHANGED) != _SOURCE_CHANGED:
        return None
    if usual:
        return b"".join(place(message)), state
    if original is None or reply is None:
        return None
    protocol, source, destination, from_port, to_port = original
    _, _, translated, reply_from, reply_to = reply
    # Answers to an echo bear its identifier, wherever they go.
    port = reply_from if protocol in _ECHOES else reply_to
    return bytes((protocol,)) + source + destination + translated + _PORTS.pack(from_port, to_port, port), state


def _layout(size: int) -> tuple[int, itemgetter[tuple[bytes, ...]]]:
    """Return how large a tuple with ports is, for addresses of that size, and what takes a record from a message that
    begins with two of them.
    """
    # Heads of the tuple, of its addresses and of the first one; a head stands before each other value as well.
    source, destination = 12, 16 + size
    number = destination + size + 8
    from_port, to_port, whole = number + 8, number + 16, number + 20
    places = (
        (number, 1),
        (source, size),
        (destination, size),
        (whole + destination, size),
        (from_port, 2),
        (to_port, 2),
        (whole + to_port, 2),
    )
    slices = [slice(_HEADS + at, _HEADS + at + length) for at, length in places]
    return whole, itemgetter(*slices)  # type: ignore[arg-type]


_LAYOUTS = {size: _layout(size) for size in (4, 16)}


def _tuple(data: bytes, start: int, size: int) -> tuple[int, bytes, bytes, int, int] | None:
    """Return (protocol, source, destination, port or identifier, port or type and code) of a tuple."""
    ip_at = start + 8
    source, destination = data[ip_at : ip_at + size], data[ip_at + size + 4 : ip_at + 2 * size + 4]
    proto_at = ip_at + 2 * size + 4
    (length,) = struct.unpack_from("=H", data, proto_at)
    # The zone may follow.
    values = {kind: data[first:last] for kind, first, last in attributes(data, proto_at + 4, proto_at + length)}
    protocol = values[_NUMBER][0]
    if protocol in _ECHOES:
        identifier, type_, code = _ECHO_PARTS[4 if size == 4 else 6]
        if identifier not in values or values[type_][0] not in _ECHOES[protocol]:
            return None
        (number,) = struct.unpack("!H", values[identifier])
        return protocol, source, destination, number, values[type_][0] << 8 | values[code][0]
    if _FROM_PORT not in values or _TO_PORT not in values:
        return None
    ports = struct.unpack("!HH", values[_FROM_PORT] + values[_TO_PORT])
    return protocol, source, destination, *ports


def _tcp_state(data: bytes, start: int, stop: int) -> int:
    for type_, first, last in attributes(data, start, stop):
        if type_ == _TCP_INFO:
            for kind, at, _ in attributes(data, first, last):
                if kind == _TCP_STATE:
                    return data[at]
    return _ESTABLISHED


def _made(record: bytes, mark: int) -> tuple[bytes, bytes, bytes]:
    """Return the family's head, the original tuple, and all other attributes of a connection that is to be made."""
    size = _ADDRESS_SIZE[len(record)]
    protocol, body = record[0], record[1:]
    source, destination, translated = body[:size], body[size : 2 * size], body[2 * size : 3 * size]
    from_port, to_port, port = _PORTS.unpack(body[3 * size :])
    version, family = (4, socket.AF_INET) if size == 4 else (6, socket.AF_INET6)
    head = struct.pack("=BBH", family, 0, 0)
    if protocol in _ECHOES:
        request, answer = _ECHOES[protocol]
        there, back = (from_port, request << 8), (from_port, answer << 8)
    else:
        there, back = (from_port, to_port), (to_port, from_port)
    original = _nested(_ORIGINAL, _encoded(protocol, source, destination, *there, version))
    # The kernel changes the reply's destination itself, and notes that it did.
    reply = _nested(_REPLY, _encoded(protocol, destination, source, *back, version))
    lowest, highest = _NAT_ADDRESS[version]
    single = struct.pack("!H", port)
    nat = attribute(lowest, translated) + attribute(highest, translated)
    nat += _nested(_NAT_PROTO, attribute(1, single) + attribute(2, single))
    rest = reply + attribute(_STATUS, struct.pack("!I", _ESTABLISHED_STATUS))
    if (translated, port) != (source, from_port):
        rest += _nested(_NAT_SRC, nat)
    rest += attribute(_TIMEOUT, struct.pack("!I", UNHEARD.get(protocol, _UNHEARD_OTHER)))
    if mark:
        rest += attribute(_MARK, struct.pack("!I", mark))
    if protocol == socket.IPPROTO_TCP:
        info = attribute(_TCP_STATE, bytes((_ESTABLISHED,)))
        info += b"".join(attribute(kind, _LIBERAL) for kind in _TCP_FLAGS)
        rest += _nested(_PROTOINFO, _nested(_TCP_INFO, info))
    return head, original, rest


def _answers(record: bytes) -> list[bytes]:
    """Return the original tuple of the connection that answers would begin; those of an echo begin none."""
    size = _ADDRESS_SIZE[len(record)]
    protocol, body = record[0], record[1:]
    if protocol in _ECHOES:
        return []
    destination, translated = body[size : 2 * size], body[2 * size : 3 * size]
    _, to_port, port = _PORTS.unpack(body[3 * size :])
    return [_nested(_ORIGINAL, _encoded(protocol, destination, translated, to_port, port, 4 if size == 4 else 6))]


def _encoded(protocol: int, source: bytes, destination: bytes, first: int, second: int, version: int) -> bytes:
    from_, to = _ADDRESSES[version]
    addresses = _nested(_IP, attribute(from_, source) + attribute(to, destination))
    number = attribute(_NUMBER, bytes((protocol,)))
    if protocol in _ECHOES:
        identifier, type_, code = _ECHO_PARTS[version]
        parts = attribute(identifier, struct.pack("!H", first))
        parts += attribute(type_, bytes((second >> 8,))) + attribute(code, bytes((second & 0xFF,)))
    else:
        parts = attribute(_FROM_PORT, struct.pack("!H", first)) + attribute(_TO_PORT, struct.pack("!H", second))
    return addresses + _nested(_PROTO, number + parts)


def _nested(type_: int, payload: bytes) -> bytes:
    return attribute(type_ | NLA_F_NESTED, payload)


# A program for the socket, see bpf(4) and linux/filter.h: (code, jump if true, jump if false, value).

_LOAD_IMMEDIATE, _INDEX_IMMEDIATE, _TO_INDEX = 0x00, 0x01, 0x07
_LOAD_BYTE, _LOAD_WORD_AT, _LOAD_BYTE_AT = 0x30, 0x40, 0x50
_IF_EQUAL, _IF_AT_LEAST, _IF_BITS, _RETURN = 0x15, 0x35, 0x45, 0x06
#: SKF_AD_OFF + SKF_AD_NLATTR and SKF_AD_NLATTR_NEST: the accumulator becomes the place of the attribute whose type is
#: in the index, looked for from the accumulator on, or inside of the attribute that is there; 0 when there is none.
_FIND, _FIND_INSIDE = 0xFFFFF000 + 12, 0xFFFFF000 + 16
_ACCEPT, _REFUSE = "accept", "refuse"


def _events_filter() -> list[tuple[int, int, int, int]]:
    """Return the program that accepts: the end of any translated connection; the beginning of one without states; of
    TCP the state ESTABLISHED, and those after its end.
    """
    steps: list[tuple[int, int | str, int | str, int]] = [
        (_INDEX_IMMEDIATE, 0, 0, _STATUS),
        (_LOAD_IMMEDIATE, 0, 0, _HEADS),
        (_LOAD_BYTE, 0, 0, _FIND),
        (_IF_EQUAL, _REFUSE, 0, 0),
        (_TO_INDEX, 0, 0, 0),
        (_LOAD_WORD_AT, 0, 0, 4),
        (_IF_BITS, 0, _REFUSE, _SOURCE_CHANGED),
        # The low byte of the message's type.
        (_LOAD_BYTE, 0, 0, _TYPE_AT),
        (_IF_EQUAL, _ACCEPT, 0, _DELETE & 0xFF),
        (_INDEX_IMMEDIATE, 0, 0, _PROTOINFO),
        (_LOAD_IMMEDIATE, 0, 0, _HEADS),
        (_LOAD_BYTE, 0, 0, _FIND),
        (_IF_EQUAL, 6, 0, 0),
        (_INDEX_IMMEDIATE, 0, 0, _TCP_INFO),
        (_LOAD_BYTE, 0, 0, _FIND_INSIDE),
        (_IF_EQUAL, 3, 0, 0),
        (_INDEX_IMMEDIATE, 0, 0, _TCP_STATE),
        (_LOAD_BYTE, 0, 0, _FIND_INSIDE),
        (_IF_EQUAL, 2, 4, 0),
        # No states: it counts when it is new. The high byte of the message's flags has NLM_F_CREATE.
        (_LOAD_BYTE, 0, 0, _FLAGS_AT),
        (_IF_BITS, _ACCEPT, _REFUSE, NLM_F_CREATE >> 8),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 0),
        (_TO_INDEX, 0, 0, 0),
        (_LOAD_BYTE_AT, 0, 0, 4),
        (_IF_EQUAL, _ACCEPT, 0, _ESTABLISHED),
        (_IF_AT_LEAST, _ACCEPT, _REFUSE, _TIME_WAIT),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    ]
    ends = {_ACCEPT: len(steps) - 2, _REFUSE: len(steps) - 1}

    def jump(to: int | str, at: int) -> int:
        return ends[to] - at - 1 if isinstance(to, str) else to

    return [(code, jump(yes, at), jump(no, at), value) for at, (code, yes, no, value) in enumerate(steps)]


def _attach(to: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    import ctypes

    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
