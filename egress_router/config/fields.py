"""Strict readers of single values. Each returns the value, or an ``Invalid`` with the reason why it is none.

Numbers are plain decimal without leading zeros: ``0443`` is an error, not 443 and not octal 291.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from egress_router.config.patterns import pattern
from egress_router.config.values import Address, HostName, Interface, Network, PortRange
from egress_router.errors import printable, quoted

_PORT = r"[1-9][0-9]{0,4}"
_LENGTH = r"0|[1-9][0-9]{0,2}"
_DOTTED = r"[0-9.]+"
#: Narrower than the kernel's rule (dev_valid_name): nft and iptables read ``*``, ``+``, ``!`` and quotes as their own.
_INTERFACE = r"[A-Za-z0-9_.@-]{1,15}"
#: What ``net/ipv4/conf`` has besides interfaces; the kernel lets no interface be called so.
_NO_INTERFACE = (".", "..", "all", "default")

EXPECTED_PORT = "a number from 1 to 65535 without leading zeros"


class Invalid(str):
    """The reason why a value is not valid, as text."""

    __slots__ = ()


def port(text: str) -> int | Invalid:
    """Read a port number, 1 to 65535."""
    if pattern(_PORT).fullmatch(text):
        value = int(text)
        if value <= 65535:
            return value
    return Invalid(f"{quoted(text)} is not a port")


@lru_cache(maxsize=1024)  # lists name the same few ports of servers again and again
def port_range(text: str) -> PortRange | Invalid:
    """Read ``N`` or ``N-M`` with N ≤ M."""
    first_text, dash, last_text = text.partition("-")
    first = port(first_text)
    if isinstance(first, Invalid):
        return Invalid(f"{quoted(text)} is not a port or a range of ports") if dash else first
    if not dash:
        return PortRange(first, first)
    last = port(last_text)
    if isinstance(last, Invalid):
        return Invalid(f"{quoted(text)} is not a port or a range of ports")
    if last < first:
        return Invalid(f"{quoted(text)} ends before it starts")
    return PortRange(first, last)


#: Of which an IPv4 address consists.
_OF_IPV4 = "0123456789."


def bare_address(text: str) -> Address | Invalid:
    """Read an address as ``address`` does, in brackets (RFC 3986, 3.2.2) or without."""
    return address(text.removeprefix("[").removesuffix("]"))


def address(text: str) -> Address | Invalid:
    """Read an IPv4 or IPv6 address. Zone indices and IPv4-mapped addresses are refused."""
    try:
        if ":" not in text:
            if text.strip(_OF_IPV4):
                # A name, most often: an exception would cost as much as all else that is read of it.
                return Invalid(f"{quoted(text)} is not an IP address")
            return IPv4Address(text)
        if "%" in text:
            return Invalid(f"{quoted(text)} has a zone index")
        value = IPv6Address(text)
    except AddressValueError:
        return Invalid(f"{quoted(text)} is not an IP address{_octal_hint(text)}")
    if value.ipv4_mapped is not None:
        return Invalid(f"{quoted(text)} is an IPv4-mapped address; write {value.ipv4_mapped}")
    return value


def _octal_hint(text: str) -> str:
    parts = text.split(".")
    leading_zero = pattern(_DOTTED).fullmatch(text) and any(len(part) > 1 and part[0] == "0" for part in parts)
    return ": a part has a leading zero, which some programs read as octal" if leading_zero else ""


def not_a_host(value: Address) -> str | None:
    """Say why an address is not the one of a single remote host; None when it may be one."""
    if value.is_unspecified:
        return "the unspecified address"
    if value.is_multicast:
        return "a multicast address"
    if value.is_loopback:
        return "a loopback address"
    return "the broadcast address" if str(value) == "255.255.255.255" else None


def interface_address(text: str) -> Interface | Invalid:
    """Read ``ADDRESS[/LENGTH]``; without a length it is the whole address, /32 or /128."""
    host_text, slash, length_text = text.partition("/")
    host = address(host_text)
    if isinstance(host, Invalid):
        return host
    if slash and not (pattern(_LENGTH).fullmatch(length_text) and 1 <= int(length_text) <= host.max_prefixlen):
        return Invalid(f"{quoted('/' + length_text)} is not a prefix length from /1 to /{host.max_prefixlen}")
    length = int(length_text) if slash else host.max_prefixlen
    return IPv4Interface((host, length)) if isinstance(host, IPv4Address) else IPv6Interface((host, length))


def network(text: str) -> Network | Invalid:
    """Read ``ADDRESS[/LENGTH]`` as a prefix; bits behind the prefix must be zero."""
    host_text, slash, length_text = text.partition("/")
    host = address(host_text)
    if isinstance(host, Invalid):
        return host
    if slash and not (pattern(_LENGTH).fullmatch(length_text) and int(length_text) <= host.max_prefixlen):
        return Invalid(f"{quoted('/' + length_text)} is not a prefix length from /0 to /{host.max_prefixlen}")
    length = int(length_text) if slash else host.max_prefixlen
    try:
        return IPv4Network((host, length)) if isinstance(host, IPv4Address) else IPv6Network((host, length))
    except ValueError:
        kind = IPv4Network if isinstance(host, IPv4Address) else IPv6Network
        return Invalid(f"{quoted(text)} has bits set behind its prefix; write {kind((host, length), strict=False)}")


def interface_name(text: str) -> str | Invalid:
    """Read an interface name: 1 to 15 letters, digits and ``_ . - @``."""
    if pattern(_INTERFACE).fullmatch(text) and text not in _NO_INTERFACE and not text.startswith("-"):
        return text
    return Invalid(f"{quoted(text)} is not an interface name")


_DURATION = r"(0|[1-9][0-9]{0,8})([smhd]?)"
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
EXPECTED_DURATION = "a number of seconds, or one with a unit, such as 90s, 15m, 1h or 2d"


def duration(text: str, least: int, most: int) -> int | Invalid:
    """Read ``N`` or ``N`` with s, m, h or d as whole seconds from ``least`` to ``most``."""
    match = pattern(_DURATION).fullmatch(text)
    if match is None:
        return Invalid(f"{quoted(text)} is not a duration")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if not least <= seconds <= most:
        return Invalid(f"{quoted(text)} is not between {least} s and {most} s")
    return seconds


#: RFC 1123, plus the underscores that names of services have (RFC 2782).
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
#: What inet_aton(3) and browsers take for a number: a "name" that ends so is a mistyped address.
_NUMBER = r"[0-9]+|0x[0-9a-f]*"
MAX_NAME = 253


def host_name(text: str) -> HostName | Invalid:
    """Read a DNS name: lower cased, internationalised labels encoded (IDNA 2008, UTS 46), a trailing dot kept."""
    name = text.lower()
    if not name.isascii():
        import idna

        try:
            # Labels in ASCII are judged below as in any name, which costs a tenth of what IDNA makes of them.
            labels = idna.uts46_remap(name, std3_rules=False).split(".")
            name = ".".join(label if label.isascii() else idna.alabel(label).decode("ascii") for label in labels)
        except idna.IDNAError as error:
            return Invalid(f"{quoted(text)} is not a name: {printable(str(error))}")
    bare = name.removesuffix(".")
    labels = bare.split(".")
    if len(bare) > MAX_NAME:
        return Invalid(f"the name has {len(bare)} characters, DNS allows {MAX_NAME}")
    for label in labels:
        if not pattern(_LABEL).fullmatch(label):
            return Invalid(f"{quoted(text)} is neither an address nor a name")
    if pattern(_NUMBER).fullmatch(labels[-1]):
        return Invalid(f"{quoted(text)} is not an address, and a name does not end in a number")
    if labels[-1] == "localhost":
        return Invalid(f"{quoted(text)} is this pod itself (RFC 6761)")
    return HostName(name)
