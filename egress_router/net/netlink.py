"""A blocking netlink socket that speaks pyroute2's messages, or bytes where there are thousands. See netlink(7) and
Documentation/userspace-api/netlink/intro.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

from egress_router.errors import CapabilityError, PlatformError
from egress_router.net.closing import Closing
from egress_router.net.oserror import translating
from egress_router.postponed import postponed

#: socket.NETLINK_NETFILTER, which Python 3.11 does not have.
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLA_F_NESTED = 0x8000

NLM_F_DUMP_INTR = 0x10

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
#: Length, type, flags, sequence number, port: the head of every message.
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_SO_SNDBUFFORCE = 32
#: The kernel sends 32 KiB at once, and more only of one link with hundreds of virtual functions. From 128 KiB on the C
#: library maps each block anew.
_RECEIVE_BYTES = 96 * 1024
#: The kernel answers a request at once; silence means that the socket is broken.
_TIMEOUT_SECONDS = 10.0


class NetlinkError(PlatformError):
    """The kernel refused a request. ``code`` is the errno, ``reason`` the kernel's own text if it gave one."""

    def __init__(self, code: int, reason: str, doing: str) -> None:
        self.code = code
        self.reason = reason
        text = os.strerror(code) + (f": {reason}" if reason else "")
        super().__init__(f"{doing}: the kernel says {errno.errorcode.get(code, code)} ({text})")


class Netlink(Closing):
    """A netlink socket of one protocol (``socket.NETLINK_ROUTE``, …), bound in the network namespace it is made in.

    Every method raises EgressRouterErrors only: NetlinkError when the kernel refuses, CapabilityError when it does so
    for lack of permission, TryAgainError when it does not answer in time or has no memory for the request.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        with translating("open a netlink socket"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.settimeout(_TIMEOUT_SECONDS)
            self._socket.bind((0, 0))
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    @property
    def port(self) -> int:
        """The port of the socket, see netlink(7)."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def change(self, message: Any, type_: int, flags: int, doing: str, extra: bytes = b"") -> None:
        """Send a request that changes something and wait for the acknowledgement.

        ``extra`` is attributes appended to what ``message`` encodes. Raises NetlinkError naming what it was ``doing``.
        """
        sequence = self._send(message, type_, flags | NLM_F_ACK, extra, doing)
        for _, _, _ in self._receive(sequence, doing):
            pass

    def dump(self, message: Any, type_: int, doing: str, keep: Callable[[bytes], bool] | None = None) -> list[Any]:
        """Send a dump request and return the answers as messages of the same class; repeated while the kernel says
        that the list changed underneath. ``keep`` says which ones are worth taking apart, by their bytes.
        """
        for _ in range(10):
            sequence = self._send(message, type_, NLM_F_DUMP, b"", doing)
            parts = list(self._receive(sequence, doing))
            if not any(flags & NLM_F_DUMP_INTR for _, flags, _ in parts):
                return [_decoded(type(message), data) for _, _, data in parts if keep is None or keep(data)]
        raise NetlinkError(errno.EINTR, "the list kept changing while it was read", doing)

    def get(self, message: Any, type_: int, doing: str) -> Any:
        """Send a request for one object and return it as a message of the same class. Raises NetlinkError."""
        sequence = self._send(message, type_, NLM_F_ACK, b"", doing)
        found = [data for _, _, data in self._receive(sequence, doing)]
        if not found:
            raise NetlinkError(errno.ENODATA, "no answer", doing)
        return _decoded(type(message), found[0])

    def stream(self, type_: int, flags: int, body: bytes, doing: str) -> Iterator[tuple[int, int, bytes]]:
        """Send a request; yield (type, flags, whole message) of every answer as it comes. Raises NetlinkError."""
        self._sequence += 1
        self._write(_message(type_, flags, self._sequence, body), doing)
        return self._receive(self._sequence, doing)

    def change_all(self, messages: Sequence[tuple[int, int, bytes]], doing: str, fine: Collection[int] = ()) -> None:
        """Send requests (type, flags, body) in one go and wait until the last of those with NLM_F_ACK is acknowledged.

        Errors in ``fine`` are none. Raises NetlinkError.
        """
        first = self._sequence + 1
        self._sequence += len(messages)
        data = b"".join([_message(*message[:2], first + at, message[2]) for at, message in enumerate(messages)])
        last = max(first + at for at, (_, flags, _) in enumerate(messages) if flags & NLM_F_ACK)
        self._make_room(len(data))
        self._write(data, doing)
        for type_, flags, number, message in self._read(doing):
            if type_ == _NLMSG_ERROR and number >= first:
                _raise_if_error(message, flags, doing, fine)
                if number == last:
                    return

    def _make_room(self, size: int) -> None:
        """Let one message be so large; the kernel counts what it needs beside it, too."""
        if size < self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size)

    def _write(self, data: bytes, doing: str) -> None:
        with translating(doing):
            self._socket.send(data)

    def _send(self, message: Any, type_: int, flags: int, extra: bytes, doing: str) -> int:
        self._sequence += 1
        message["header"]["type"] = type_
        message["header"]["flags"] = flags | NLM_F_REQUEST
        message["header"]["sequence_number"] = self._sequence
        message.encode()
        data = bytes(message.data)
        data += bytes(-len(data) % 4) + extra
        self._write(struct.pack("=I", len(data)) + data[4:], doing)
        return self._sequence

    def _receive(self, sequence: int, doing: str) -> Iterator[tuple[int, int, bytes]]:
        """Yield (type, flags, whole message) of every answer until the last; raise on an error."""
        for type_, flags, number, message in self._read(doing):
            if number != sequence:
                continue
            if type_ == _NLMSG_ERROR:
                _raise_if_error(message, flags, doing)
                return
            if type_ == _NLMSG_DONE:
                code = struct.unpack_from("=i", message, _HEADER.size)[0] if len(message) >= _HEADER.size + 4 else 0
                if code < 0:
                    raise NetlinkError(-code, "", doing)
                return
            yield type_, flags, message

    def _read(self, doing: str) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield (type, flags, sequence number, whole message) of everything that comes, without end."""
        while True:
            with translating(doing):
                data = self._socket.recv(_RECEIVE_BYTES)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, type_, flags, number, _ = _HEADER.unpack_from(data, offset)
                yield type_, flags, number, data[offset : offset + length]
                offset += (length + 3) & ~3


def _message(type_: int, flags: int, sequence: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return _HEADER.pack(_HEADER.size + len(body), type_, flags | NLM_F_REQUEST, sequence, 0) + body


def attribute(type_: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded."""
    return _ATTRIBUTE.pack(len(payload) + 4, type_) + payload + bytes(-len(payload) % 4)


def attributes(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (type, start, end) of the attributes that stand between ``at`` and ``end``."""
    while at + 4 <= end:
        length, type_ = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield type_ & _TYPE_MASK, at + 4, at + length
        at += (length + 3) & ~3


def encoded(message: Any) -> bytes:
    """Return what stands behind the head of a message of pyroute2's, for ``change_all``."""
    message.encode()
    return bytes(message.data)[_HEADER.size :]


def _decoded(kind: type[Any], data: bytes) -> Any:
    message = kind(data)
    message.decode()
    return message


def _raise_if_error(message: bytes, flags: int, doing: str, fine: Collection[int] = ()) -> None:
    code = -struct.unpack_from("=i", message, _HEADER.size)[0]
    if code == 0 or code in fine:
        return
    reason = _extended_text(message, flags)
    if code == errno.EPERM:
        raise CapabilityError(
            f"{doing}: not permitted{f' ({reason})' if reason else ''}; the container needs NET_ADMIN "
            "(securityContext.capabilities.add) or privileged: true"
        )
    raise NetlinkError(code, reason, doing)


def _extended_text(message: bytes, flags: int) -> str:
    """Return the kernel's own words from the extended acknowledgement."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    offset = _HEADER.size + 4
    inner = struct.unpack_from("=I", message, offset)[0]
    offset += _HEADER.size if flags & _NLM_F_CAPPED else (inner + 3) & ~3
    while offset + 4 <= len(message):
        length, type_ = struct.unpack_from("=HH", message, offset)
        if length < 4:
            break
        if type_ == _NLMSGERR_ATTR_MSG:
            return message[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += (length + 3) & ~3
    return ""


# pyroute2's message classes without the rest of pyroute2.
#
# ``import pyroute2`` loads asyncio, ssl, NDB and every netlink family: a quarter of a second that each pod would wait
# for. The message classes need none of that. While they are imported an empty package stands in for pyroute2's
# ``__init__``; afterwards it is gone, so that a later ``import pyroute2`` works as ever.

_NAME = "pyroute2"


def _bare_package() -> ModuleType:
    spec = PathFinder.find_spec(_NAME)
    if spec is None or spec.submodule_search_locations is None:
        raise PlatformError("the Python package pyroute2 is not installed")
    package = ModuleType(_NAME)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    return package


def _stand_ins() -> dict[str, ModuleType]:
    """Return what ``pyroute2.config`` asks while it is imported, in place of modules that nobody has loaded: processes
    and their queues, which the message classes do not use (who does gets the true ones), and what machine this is.
    """

    def later(name: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            return getattr(import_module("multiprocessing"), name)(*args, **named)

        return call

    system = os.uname()
    found = {
        "multiprocessing": {name: later(name) for name in ("Pipe", "Queue", "Process")},
        "platform": {
            "uname": lambda: SimpleNamespace(
                system=system.sysname,
                node=system.nodename,
                release=system.release,
                version=system.version,
                machine=system.machine,
            ),
            "machine": lambda: system.machine,
            "architecture": lambda **_: (f"{struct.calcsize('P') * 8}bit", ""),
        },
    }
    modules = {}
    for name, members in found.items():
        if name not in sys.modules:
            modules[name] = ModuleType(name)
            modules[name].__dict__.update(members)
    return modules


_loaded = _NAME in sys.modules
_modules = {} if _loaded else {_NAME: _bare_package(), **_stand_ins()}
sys.modules.update(_modules)
try:
    with postponed("traceback"):
        from pyroute2.netlink import nlmsg
        from pyroute2.netlink.rtnl.fibmsg import fibmsg
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.ndmsg import ndmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg
finally:
    for _name in _modules:
        del sys.modules[_name]

__all__ = ["fibmsg", "ifaddrmsg", "ifinfmsg", "ndmsg", "nlmsg", "rtmsg"]
