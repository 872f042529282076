"""Rule → the bytes that libiptc takes, and back to something that compares.

python-iptables builds a rule in 0.6 ms by going through the extension's option parser. Thousands of rules differ in
ports, addresses and chain names alone, so one of each shape is built that way, with marked values, and the others are
copies with the marks overwritten. Layouts: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h,
linux/netfilter/x_tables.h.
"""

from __future__ import annotations

import ctypes
import struct
from ipaddress import ip_address
from typing import Any

from egress_router.config.values import Family
from egress_router.errors import PlatformError
from egress_router.net.iptables.platform import LIBXTABLES
from egress_router.net.iptables.rules import IptMatch, IptRule
from egress_router.records import dataclass, replace

_PORT_OPTIONS = ("dport", "ctorigdstport")
_MARK_PORTS = (4951, 9320)
_MARK_TO = (5213, 9578)
_MARK_BASE = 30841
_MARK_ADDRESS = {Family.IPV4: "198.18.19.20", Family.IPV6: "2001:db8:1357:2468:9bdf:ace1:1234:5678"}
_VERDICTS = ("ACCEPT", "DROP", "RETURN")
#: The head of a match and of a target: size, name, revision.
_HEAD = struct.Struct("=H29sB")


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in struct ipt_entry or ip6t_entry: what the kernel fills in, and where the matches start."""

    nfcache: int
    target_offset: int
    comefrom: int
    counters: int
    size: int


LAYOUTS = {Family.IPV4: Layout(84, 88, 92, 96, 112), Family.IPV6: Layout(136, 140, 144, 152, 168)}


@dataclass(frozen=True, slots=True)
class _Template:
    """A built rule and where its marked values stand."""

    data: bytes
    first: int
    last: int
    port_format: str
    addresses: tuple[int, ...] = ()
    to_first: int | None = None
    base: int | None = None


class EntryEncoder:
    """Builds entries for one family with the module ``iptc``. Chains that rules jump to must exist in a table."""

    def __init__(self, iptc: Any, family: Family) -> None:
        self._iptc = iptc
        self._family = family
        self._layout = LAYOUTS[family]
        self._templates: dict[object, _Template] = {}
        #: Rules of a shape of their own: they are asked for to be written, to be compared and to be compared again.
        self._built: dict[IptRule, bytes] = {}

    def entry(self, rule: IptRule) -> bytearray:
        """Return the entry of ``rule`` with zero counters."""
        key = _shape(rule)
        if key is None:
            built = self._built.get(rule)
            if built is None:
                built = self._built[rule] = self._build(rule)
            return bytearray(built)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = self._template(rule)
        data = bytearray(template.data)
        first, last = _ports_of(rule)
        struct.pack_into(template.port_format, data, template.first, first)
        struct.pack_into(template.port_format, data, template.last, last)
        if rule.target == "DNAT":
            self._patch_destination(data, template, rule)
        elif rule.target not in _VERDICTS:
            self._set_target_name(data, rule.target)
        return data

    def canonical(self, entry: bytes | bytearray, label: str | None) -> bytes:
        """Return what identifies a rule: the entry without what the kernel fills in; a jump by its target's name."""
        layout = self._layout
        data = bytearray(entry)
        for offset, size in ((layout.nfcache, 4), (layout.comefrom, 4), (layout.counters, 16)):
            data[offset : offset + size] = bytes(size)
        (target,) = struct.unpack_from("=H", data, layout.target_offset)
        at = layout.size
        while at < target:
            at += _clean_name(data, at)
        if label:
            return bytes(data[:target]) + label.encode()
        _clean_name(data, target)
        return bytes(data)

    def with_target_name(self, entry: bytes, label: str) -> bytearray:
        """Return a copy of a read entry that names its jump target, as libiptc wants it from outside."""
        data = bytearray(entry)
        self._set_target_name(data, label)
        return data

    def counters(self, entry: bytes) -> tuple[int, int]:
        """Return (packets, bytes) of an entry."""
        packets, size = struct.unpack_from("=QQ", entry, self._layout.counters)
        return packets, size

    def set_counters(self, entry: bytearray, value: tuple[int, int]) -> None:
        """Write (packets, bytes) into an entry."""
        struct.pack_into("=QQ", entry, self._layout.counters, *value)

    def _set_target_name(self, data: bytearray, label: str) -> None:
        (target,) = struct.unpack_from("=H", data, self._layout.target_offset)
        struct.pack_into("=29s", data, target + 2, label.encode())

    def _patch_destination(self, data: bytearray, template: _Template, rule: IptRule) -> None:
        address, first, last, base = _destination_of(rule)
        packed = ip_address(address).packed
        for offset in template.addresses:
            data[offset : offset + len(packed)] = packed
        if template.to_first is not None:
            struct.pack_into("!HH", data, template.to_first, first, last)
        if template.base is not None:
            struct.pack_into("!H", data, template.base, base)

    def _template(self, rule: IptRule) -> _Template:
        match = rule.matches[-1]
        key = match.options[0][0]
        marked = IptMatch(match.name, ((key, f"{_MARK_PORTS[0]}:{_MARK_PORTS[1]}"),))
        options = rule.options
        if rule.target == "DNAT":
            options = (("to-destination", self._marked_destination(rule)),)
        data = self._build(replace(rule, matches=(*rule.matches[:-1], marked), options=options))
        port_from, port_to, form = _find_ports(data)
        if rule.target != "DNAT":
            return _Template(data, port_from, port_to, form)
        packed = ip_address(_MARK_ADDRESS[self._family]).packed
        addresses = tuple(_find_all(data, packed))
        to, base = struct.pack("!HH", *_MARK_TO), struct.pack("!H", _MARK_BASE)
        single = struct.pack("!HH", _MARK_TO[0], _MARK_TO[0])
        to_first = next((p for p in (data.find(to), data.find(single)) if p >= 0), None)
        found_base = data.find(base)
        return _Template(data, port_from, port_to, form, addresses, to_first, found_base if found_base >= 0 else None)

    def _marked_destination(self, rule: IptRule) -> str:
        _, first, _, base = _destination_of(rule)
        address = _MARK_ADDRESS[self._family]
        if not first:
            return address
        host = f"[{address}]" if self._family is Family.IPV6 else address
        if not base:
            return f"{host}:{_MARK_TO[0]}"
        return f"{host}:{_MARK_TO[0]}-{_MARK_TO[1]}/{_MARK_BASE}"

    def _build(self, rule: IptRule) -> bytes:
        """Build an entry through python-iptables. Raises PlatformError when it cannot, with this libxtables."""
        try:
            return self._build_unchecked(rule)
        except (self._iptc.IPTCError, self._iptc.XTablesError, ValueError) as error:
            raise PlatformError(
                f"python-iptables cannot make the rule `{rule}` with this machine's {LIBXTABLES}: "
                f"{error}; set EGRESS_NAT_BACKEND=nftables"
            ) from error

    def _build_unchecked(self, rule: IptRule) -> bytes:
        iptc = self._iptc
        built = iptc.Rule6() if self._family is Family.IPV6 else iptc.Rule()
        if rule.protocol is not None:
            built.protocol = rule.protocol
        if rule.source is not None:
            built.src = rule.source
        if rule.destination is not None:
            built.dst = rule.destination
        if rule.in_interface is not None:
            built.in_interface = rule.in_interface
        if rule.out_interface is not None:
            built.out_interface = rule.out_interface
        for match in rule.matches:
            made = built.create_match(match.name)
            for key, value in match.options:
                made.set_parameter(key, value.split() if key == "tcp-flags" else value)
        target = iptc.Target(built, rule.target, goto=rule.goto)
        for key, value in rule.options:
            target.set_parameter(key, value)
        built.target = target
        built.final_check()
        return bytes(built.rule)


def _clean_name(data: bytearray, at: int) -> int:
    """Clear what the kernel left behind an extension's name; return the extension's size."""
    size, name, revision = _HEAD.unpack_from(data, at)
    _HEAD.pack_into(data, at, size, name.partition(b"\0")[0], revision)
    return int(size)


def entry_bytes(entry: Any) -> bytes:
    """Return all bytes of an entry that libiptc points to."""
    return ctypes.string_at(ctypes.addressof(entry), entry.next_offset)


def _shape(rule: IptRule) -> object:
    """Return what rules with the same template share; None for a rule that is built one by one."""
    if not rule.matches or rule.matches[-1].options[0][0] not in _PORT_OPTIONS:
        return None
    if rule.target == "DNAT":
        _, first, _, base = _destination_of(rule)
        return (rule.protocol, rule.matches[:-1], rule.matches[-1].name, "DNAT", bool(first), bool(base))
    target = rule.target if rule.target in _VERDICTS else "chain"
    return (rule.protocol, rule.matches[:-1], rule.matches[-1].name, target, rule.goto)


def _ports_of(rule: IptRule) -> tuple[int, int]:
    first, _, last = rule.matches[-1].options[0][1].partition(":")
    return int(first), int(last or first)


def _destination_of(rule: IptRule) -> tuple[str, int, int, int]:
    """Split ``ADDRESS[:FIRST[-LAST][/BASE]]`` (``[ADDRESS]`` with IPv6) into its parts; ports are 0 if absent."""
    text = rule.options[0][1]
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        rest = rest.removeprefix(":")
    elif text.count(":") > 1:
        address, rest = text, ""
    else:
        address, _, rest = text.partition(":")
    ports, _, base = rest.partition("/")
    first, _, last = ports.partition("-")
    return address, int(first or 0), int(last or first or 0), int(base or 0)


def _find_ports(data: bytes) -> tuple[int, int, str]:
    """Find where a match keeps the first and the last port of its range, and in which byte order."""
    for form in ("=H", "!H"):
        first, last = (data.find(struct.pack(form, mark)) for mark in _MARK_PORTS)
        if first >= 0 and last >= 0:
            return first, last, form
    raise PlatformError("this version of iptables keeps ports where they were not found")


def _find_all(data: bytes, what: bytes) -> list[int]:
    found = []
    at = data.find(what)
    while at >= 0:
        found.append(at)
        at = data.find(what, at + 1)
    return found
