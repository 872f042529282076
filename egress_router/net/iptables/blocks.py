"""Tables of legacy iptables as the kernel has them: one block of entries each, read and replaced as a whole.

See linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h: struct ipt_getinfo, ipt_get_entries,
ipt_replace, xt_counters_info.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from egress_router.config.values import Family
from egress_router.records import dataclass

_GET_INFO, _GET_ENTRIES = 64, 65
_SET_REPLACE, _SET_ADD_COUNTERS = 64, 65

TABLES = ("filter", "mangle", "nat")
_LEVELS = {Family.IPV4: (socket.AF_INET, socket.IPPROTO_IP), Family.IPV6: (socket.AF_INET6, socket.IPPROTO_IPV6)}
#: Name, valid hooks, five entry points, five underflows, number of entries, their size.
_INFO = struct.Struct("=32sI5I5III")
#: Name and size; the entries are aligned to eight bytes.
_ENTRIES = struct.Struct("=32sI4x")
#: Name, valid hooks, number of entries, their size, entry points, underflows, number of counters, where they go.
_REPLACE = struct.Struct("@32sIII5I5IIP")
_COUNTERS = struct.Struct("=32sI4x")
COUNTER_BYTES = 16


@dataclass(frozen=True, slots=True)
class Block:
    """A table: which hooks it has (a bit each), where their chains start and end (their policy), and all entries."""

    hooks: int
    entry_points: tuple[int, ...]
    underflows: tuple[int, ...]
    count: int
    data: bytes


class XtSocket:
    """Reads and replaces the tables of a family. Needs NET_ADMIN and NET_RAW."""

    def __init__(self, family: Family) -> None:
        af, self._level = _LEVELS[family]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._socket = socket.socket(af, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def info(self, table: str) -> bytes:
        """Return what the kernel says of a table: where chains start, how many entries there are and how large they
        are together. Empty when it says nothing. It takes microseconds; an entry in the place of another one of its
        size is not seen.
        """
        request = bytearray(_INFO.pack(table.encode(), *bytes(13)))
        return bytes(request) if self._get(_GET_INFO, request) else b""

    def read(self, table: str) -> Block | None:
        """Return a table; None when the kernel does not have it, or when it changed while it was read."""
        info = self.info(table)
        if not info:
            return None
        _, hooks, *places, count, size = _INFO.unpack(info)
        request = bytearray(_ENTRIES.size + size)
        _ENTRIES.pack_into(request, 0, table.encode(), size)
        if not self._get(_GET_ENTRIES, request):
            return None
        data = bytes(memoryview(request)[_ENTRIES.size :])
        return Block(hooks, tuple(places[:5]), tuple(places[5:]), count, data)

    def replace(self, table: str, old: Block, new: Block) -> bytes:
        """Put ``new`` in the place of ``old``; return the last counters of the old entries.

        Raises OSError; EAGAIN when somebody else has changed how many entries there are.
        """
        counters = ctypes.create_string_buffer(old.count * COUNTER_BYTES)
        head = _REPLACE.pack(
            table.encode(),
            new.hooks,
            new.count,
            len(new.data),
            *new.entry_points,
            *new.underflows,
            old.count,
            ctypes.addressof(counters),
        )
        self._socket.setsockopt(self._level, _SET_REPLACE, head + new.data)
        return counters.raw

    def add_counters(self, table: str, counters: bytes) -> None:
        """Add to the counters of all entries. Raises OSError."""
        head = _COUNTERS.pack(table.encode(), len(counters) // COUNTER_BYTES)
        self._socket.setsockopt(self._level, _SET_ADD_COUNTERS, head + counters)

    def _get(self, option: int, request: bytearray) -> bool:
        """Ask with what Python's getsockopt cannot pass: a buffer that says what is asked for, and takes the answer."""
        buffer = (ctypes.c_char * len(request)).from_buffer(request)
        size = ctypes.c_uint32(len(request))
        return bool(self._libc.getsockopt(self._socket.fileno(), self._level, option, buffer, ctypes.byref(size)) == 0)


class TableInfo:
    """A cheap look at tables, which has to be taken often: the kernel tells nobody when one changes. Asks for what
    identifies the tables of ``families``, in microseconds. Needs NET_ADMIN and NET_RAW.

    A rule that takes the place of another one of its size is not seen.
    """

    def __init__(self, families: tuple[Family, ...]) -> None:
        self._sockets = [XtSocket(family) for family in families]

    def read(self) -> tuple[bytes, ...]:
        """Return what the kernel says of each table; the empty string where it says nothing."""
        return tuple(own.info(name) for own in self._sockets for name in TABLES)

    def close(self) -> None:
        """Close the sockets."""
        for own in self._sockets:
            own.close()
