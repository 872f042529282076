"""EGRESS_HTTP_PROXY_DESTINATION → Policy: one destination a line, everything that is wrong reported at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna

from egress_router.config.inputs import Inputs, Line, Problems, SourceText
from egress_router.errors import printable
from egress_router.policy.port_lists import parse_ports
from egress_router.policy.size import (
    MAX_ALTERNATIONS,
    MAX_PORT_LISTS,
    MAX_RANGES,
    alternations,
    most_ranges,
    port_lists,
)
from egress_router.policy.values import (
    ANY_PORT,
    NOWHERE,
    Anything,
    Block,
    Decision,
    Name,
    Policy,
    PolicyLine,
    to_number,
)

VARIABLE = "EGRESS_HTTP_PROXY_DESTINATION"
#: About as many lines as fit a ConfigMap.
MAX_LINES = 50_000

EXPECTED = "a name, *.name, an address, a network such as 192.0.2.0/24 or [2001:db8::/32], or * as the last line"
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: What inet_aton(3) takes for a part of an address: a name that ends in one would be an address to Squid.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
#: Directives that a squid.conf is known by.
_SQUID = re.compile(
    r"acl|https?_(?:access|port)|cache_(?:peer|dir|mem)|icp_access|(?:always|never)_direct|access_log|coredump_dir|"
    r"refresh_pattern|visible_hostname|dns_nameservers|forwarded_for|via"
)


class _Bad(ValueError):
    """Carries what is wrong and what would be right."""

    def __init__(self, message: str, expected: str = EXPECTED) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected


def parse_policy(inputs: Inputs, problems: Problems, *, required: bool = False) -> Policy | None:
    """Return the policy; None when it is unset (a problem when ``required``) or when a problem was noted.

    Lines that can never match are found by ``shadowed``, not here.
    """
    before = len(problems.errors)
    source = inputs.list_text(VARIABLE, problems)
    if source is None:
        if required and len(problems.errors) == before:
            problems.error(VARIABLE, None, "", "is not set", f"one destination a line: {EXPECTED}")
        return None
    raws = list(source.lines())
    lines = tuple(line for raw in raws if (line := _parse_line(source, raw, problems)))
    for line in lines:
        if isinstance(line.target, Anything) and line.number != raws[-1].number:
            problems.error(source.variable, line.number, line.text, "is not the last line", "* only as the last line")
    if not lines and len(problems.errors) == before:
        problems.error(source.variable, None, "", "has no destination", f"one destination a line: {EXPECTED}")
    if len(lines) > MAX_LINES:
        problems.error(source.variable, lines[MAX_LINES].number, "", f"more than {MAX_LINES} lines", "fewer lines")
    if len(problems.errors) > before:
        return None
    policy = Policy(lines, source.variable)
    if (lists := len(port_lists(policy))) > MAX_PORT_LISTS:
        expected = f"at most {MAX_PORT_LISTS}"
        problems.error(source.variable, None, "", f"has {lists} different port lists on address lines", expected)
    elif most_ranges(policy) > MAX_RANGES:
        message = "has too many address lines between denied names, or too many of them with different ports"
        problems.error(source.variable, None, "", message, "address lines together, before or after the names")
    elif (count := alternations(policy)) > MAX_ALTERNATIONS:
        message = f"alternates {count} times between names and addresses of opposite decisions"
        problems.error(source.variable, None, "", message, f"at most {MAX_ALTERNATIONS} times; group the lines")
    return policy if len(problems.errors) == before else None


def _parse_line(source: SourceText, raw: Line, problems: Problems) -> PolicyLine | None:
    if len(raw.words) != 1:
        if (instead := from_squid(raw.words)) is not None:
            problems.error(source.variable, raw.number, raw.text, "is a line of a squid.conf", instead)
            return None
        problems.error(source.variable, raw.number, raw.text, "has white space inside", "one destination a line")
        return None
    try:
        return _parse_destination(source, raw, problems)
    except _Bad as bad:
        problems.error(source.variable, raw.number, raw.text, bad.message, bad.expected)
        return None


def _parse_destination(source: SourceText, raw: Line, problems: Problems) -> PolicyLine:
    text = raw.words[0]
    if "://" in text:
        raise _Bad("is a URL", f"{_host_of(text)}: the host alone, and :port behind it if only that port is meant")
    decision = Decision.DENY if text.startswith("!") else Decision.ALLOW
    host, port_text = _split_ports(text.removeprefix("!"))
    target = _parse_host(host, source, raw, problems)
    try:
        ports = ANY_PORT if port_text is None else parse_ports(port_text)
    except ValueError as error:
        raise _Bad(str(error), "ports such as :443 or :443,8443 or :8000-8010") from None
    if decision is Decision.ALLOW and isinstance(target, Block) and target.single and target.first in NOWHERE:
        raise _Bad("is no address that can be connected to", "the address of a server")
    return PolicyLine(raw.number, decision, target, ports, raw.text)


def _host_of(url: str) -> str:
    """Return the line that a URL stands for: its host, with the port where it names one."""
    sign = "!" if url.startswith("!") else ""
    rest = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    return f'"{sign}{printable(rest)}"'


def from_squid(words: Sequence[str]) -> str | None:
    """Return what a line of a squid.conf would be here, or why it is nothing; None when it is no such line."""
    if words[0] == "acl" and len(words) > 3:
        if words[2] in ("dst", "dstdomain", "dstdom_regex", "url_regex"):
            if words[2].endswith("regex"):
                return "names, *.name, addresses and networks: there are no regular expressions"
            found = [part for word in words[3:] if not word.startswith("-") for part in _names_of(word)]
            shown = " and ".join(f'"{printable(one)}"' for one in found[:6])
            return f"a line each: {shown}{' …' if len(found) > 6 else ''} (with ! in front where http_access denies it)"
        return "nothing: only destinations decide here"
    if _SQUID.fullmatch(words[0]):
        return "nothing: a destination that may be reached stands alone on its line, one that may not has ! in front"
    return None


def _names_of(word: str) -> list[str]:
    return [word[1:], f"*{word}"] if word.startswith(".") else [word]


def _split_ports(text: str) -> tuple[str, str | None]:
    """Split off ``:ports``. An IPv6 address with ports is in brackets, as in a URL (RFC 3986)."""
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _Bad("is not [address], [network/length] or one of these and :ports", "such as [2001:db8::/32]:443")
        return host + bracket, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, ports = text.partition(":")
    return host, ports if colon else None


def _parse_host(host: str, source: SourceText, raw: Line, problems: Problems) -> Name | Block | Anything:
    if host == "*":
        return Anything()
    if host.startswith("[") or ":" in host:
        return _parse_network(host.strip("[]"), IPv6Address, 128, source, raw, problems)
    labels = host.removesuffix(".").lower().split(".")
    if "/" in host and not host[0].isdecimal():
        raise _Bad("has a / although it is no network", "the host of a URL alone: what follows it is not looked at")
    if "/" in host or all(label.isdecimal() for label in labels):
        return _parse_network(host, IPv4Address, 32, source, raw, problems)
    return _parse_name(host)


def _parse_network(
    text: str,
    family: type[IPv4Address | IPv6Address],
    bits: int,
    source: SourceText,
    raw: Line,
    problems: Problems,
) -> Block:
    kind = "an IPv4" if bits == 32 else "an IPv6"
    base, slash, length_text = text.partition("/")
    try:
        if "%" in base:
            raise AddressValueError
        address = family(base)
    except AddressValueError:
        raise _Bad(f"is not {kind} address or network") from None
    length = bits
    if slash:
        if not re.fullmatch(r"0|[1-9][0-9]{0,2}", length_text) or int(length_text) > bits:
            raise _Bad(f"has a prefix length that is not 0 to {bits}")
        length = int(length_text)
    spare = (1 << (bits - length)) - 1
    number = to_number(address)
    if number & spare:
        network = f"{family(int(address) & ~spare)}/{length}"
        message = f"has bits set behind its length; {network} is used"
        problems.warn(source.variable, raw.number, raw.text, message, network)
    first = number & ~spare
    return Block(first, first | spare)


def _parse_name(text: str) -> Name:
    subdomains = text.startswith(("*.", "."))
    bare = text.removeprefix("*").removeprefix(".") if subdomains else text
    try:
        mapped = bare.lower() if bare.isascii() else idna.uts46_remap(bare, std3_rules=False)
        labels = [_label(label) for label in mapped.removesuffix(".").split(".")]
    except idna.IDNAError as error:
        raise _Bad(f"is not a host name: {error}") from None
    name = ".".join(labels)
    if _NUMBER.fullmatch(labels[-1]):
        raise _Bad("is neither an address in full nor a name (no name ends in a number)")
    if len(name) > 253:
        raise _Bad("is longer than the 253 characters of a host name")
    return Name(name, subdomains)


def asked_host(text: str) -> str:
    """Return a host as clients ask for it: an international name in ASCII. ValueError says what is wrong."""
    if text.isascii():
        return text
    try:
        return ".".join(_label(label) for label in idna.uts46_remap(text, std3_rules=False).split(".") if label)
    except (idna.IDNAError, _Bad) as error:
        raise ValueError(f'"{text}" is not a host name: {error}') from None


def _label(label: str) -> str:
    encoded = label if label.isascii() else idna.alabel(label).decode("ascii")
    if not encoded:
        raise _Bad("has an empty part between dots")
    if "*" in encoded:
        raise _Bad("has a * that is neither alone nor in front as *.")
    if not _LABEL.fullmatch(encoded):
        raise _Bad("is neither an address nor a host name")
    return encoded
