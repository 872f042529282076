"""/etc/resolv.conf and /etc/hosts as the C library reads them: what is unusable is passed over, the rest counts.

The rules are those of resolv.conf(5), hosts(5) and glibc's res_init.c. Pure, and without dnspython: the init container
reads the name servers too.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from egress_router.config.fields import not_a_host
from egress_router.config.patterns import pattern
from egress_router.config.values import Address, HostName
from egress_router.records import dataclass, field

#: Name servers that are asked at most (resolv.h, MAXNS), and the limits of the options (RES_MAXNDOTS …).
MAX_SERVERS = 3
MAX_NDOTS = 15
MAX_TIMEOUT = 30
MAX_ATTEMPTS = 5
#: RFC 1035: 253 characters without the root's dot, 63 in a label.
MAX_NAME = 253
MAX_LABEL = 63
LOCALHOST = IPv4Address("127.0.0.1")
_NUMBER = r"[0-9]{1,9}"


@dataclass(frozen=True, slots=True)
class SearchPath:
    """The ``search`` and ``options ndots:N`` lines of resolv.conf. Domains without a trailing dot."""

    domains: tuple[str, ...] = ()
    ndots: int = 1


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What resolv.conf says. ``timeout`` (seconds) and ``attempts`` are None where it does not say.

    ``tcp`` is ``use-vc``, ``ipv4_only`` is ``no-aaaa``. ``ignored`` tells, a sentence each, what was passed over.
    """

    servers: tuple[Address, ...] = ()
    search: SearchPath = field(default_factory=SearchPath)
    timeout: int | None = None
    attempts: int | None = None
    rotate: bool = False
    tcp: bool = False
    ipv4_only: bool = False
    ignored: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """Return what the text says. A line counts when its keyword stands at its beginning; of ``search`` and ``domain``
    the last line counts.
    """
    servers: list[Address] = []
    domains: list[str] = []
    ignored: list[str] = []
    options: dict[str, int | None] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or line[0].isspace() or line[0] in "#;":
            continue
        keyword, *values = words
        if keyword == "nameserver" and values:
            server = _server(values[0])
            if server is None:
                ignored.append(f'nameserver "{values[0]}" is not an address')
            else:
                servers.append(server)
        elif keyword in ("search", "domain"):
            domains = []
            for value in values[:1] if keyword == "domain" else values:
                if is_queryable(value):
                    domains.append(value)
                elif value != ".":
                    ignored.append(f'search domain "{value}" is not a name')
        elif keyword == "options":
            options |= _options(values)
    ignored += [f"name server {server} is one too many: {MAX_SERVERS} are used" for server in servers[MAX_SERVERS:]]
    ndots = _bounded(options, "ndots", 0, MAX_NDOTS)
    return ResolvConf(
        tuple(dict.fromkeys(servers[:MAX_SERVERS])),
        SearchPath(search_domains(domains), 1 if ndots is None else ndots),
        _bounded(options, "timeout", 1, MAX_TIMEOUT),
        _bounded(options, "attempts", 1, MAX_ATTEMPTS),
        "rotate" in options,
        "use-vc" in options,
        "no-aaaa" in options,
        tuple(ignored),
    )


def _server(text: str) -> Address | None:
    """Read an address as inet_aton(3) and inet_pton(3) do, with the zone index of a link-local address."""
    if ":" not in text:
        try:
            return IPv4Address(socket.inet_aton(text)) if text.isascii() else None
        except OSError:
            return None
    try:
        return IPv6Address(text)
    except AddressValueError:
        return None


def _options(words: Iterable[str]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for word in words:
        name, colon, value = word.partition(":")
        if not colon and name not in _NUMERIC:
            found[name] = None
        elif colon and name in _NUMERIC:
            # atoi(3): digits in front count, and none are 0.
            matched = pattern(_NUMBER).match(value)
            found[name] = int(matched[0]) if matched else 0
    return found


_NUMERIC = frozenset({"ndots", "timeout", "attempts"})


def _bounded(options: Mapping[str, int | None], name: str, low: int, high: int) -> int | None:
    value = options.get(name)
    return None if value is None else min(max(value, low), high)


def nameservers(text: str) -> tuple[Address, ...]:
    """Return the addresses of the ``nameserver`` lines in order, for the routes to them: without zone index, and
    without those that no route leads to (loopback, ``0.0.0.0``, multicast).
    """
    plain = [_without_zone(server) for server in parse_resolv_conf(text).servers]
    return tuple(dict.fromkeys(server for server in plain if not not_a_host(server)))


def _without_zone(address: Address) -> Address:
    return address if isinstance(address, IPv4Address) else IPv6Address(int(address))


def candidates(name: HostName, search: SearchPath) -> tuple[str, ...]:
    """Return the absolute names to ask for, in order, each with its trailing dot.

    A name with a dot is asked for as it is, and as nothing else: a wildcard record under a search domain would lead
    connections to another host. A single label is tried in the search domains as the C library does: first, or last
    with ``ndots:0``. Names that DNS cannot carry are left out.
    """
    if name.dots:
        return (f"{name.text.removesuffix('.')}.",)
    searched = [f"{name.text}.{domain}" for domain in search.domains if domain]
    ordered = [*searched, name.text] if search.ndots else [name.text, *searched]
    return tuple(dict.fromkeys(f"{item}." for item in ordered if is_queryable(item)))


def is_queryable(name: str) -> bool:
    """Return whether DNS can carry a name: ASCII, labels of 1 to 63 characters, 253 in all, a dot behind it or not."""
    bare = name.removesuffix(".")
    return (
        bool(bare)
        and bare.isascii()
        and len(bare) <= MAX_NAME
        and all(0 < len(label) <= MAX_LABEL for label in bare.split("."))
    )


def search_domains(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the domains of a ``search`` line in canonical form; the root (a lone dot) adds nothing."""
    return tuple(dict.fromkeys(bare for text in texts if (bare := text.lower().removesuffix(".")) and bare.isascii()))


# /etc/hosts


def parse_hosts(text: str) -> dict[str, tuple[Address, ...]]:
    """Return the addresses of each name, in lower case without a trailing dot; lines that are none are passed over."""
    found: dict[str, dict[Address, None]] = {}
    for line in text.splitlines():
        address_text, *names = line.partition("#")[0].split() or [""]
        address = _hosts_address(address_text)
        if address is not None:
            for name in names:
                found.setdefault(name.lower().removesuffix("."), {})[address] = None
    return {name: tuple(addresses) for name, addresses in found.items()}


def _hosts_address(text: str) -> Address | None:
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        return None
