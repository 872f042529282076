"""Text → Policy: one destination a line, everything that is wrong reported at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import idna

from egress_router.config.inputs import Inputs, Line, Problems, SourceText
from egress_router.errors import printable
from egress_router.policy.heads import Heads, is_head
from egress_router.policy.networks import EXPECTED, Bad, parse_network
from egress_router.policy.port_lists import parse_ports
from egress_router.policy.size import (
    MAX_ALTERNATIONS,
    MAX_BRANCH_LINES,
    MAX_BRANCHES,
    MAX_PORT_LISTS,
    MAX_RANGES,
    alternations,
    branch_lines,
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
    Section,
)

VARIABLE = "EGRESS_HTTP_PROXY_DESTINATION"
#: About as many lines as fit a ConfigMap.
MAX_LINES = 50_000

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: What inet_aton(3) takes for a part of an address: a name that ends in one would be an address to Squid.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
#: Directives that a squid.conf is known by.
_SQUID = re.compile(
    r"acl|https?_(?:access|port)|cache_(?:peer|dir|mem)|icp_access|(?:always|never)_direct|access_log|coredump_dir|"
    r"refresh_pattern|visible_hostname|dns_nameservers|forwarded_for|via"
)


def parse_policy(
    inputs: Inputs, problems: Problems, *, required: bool = False, variable: str = VARIABLE
) -> Policy | None:
    """Return the policy of a variable; None when it is unset (a problem when ``required``) or when a problem was noted.

    Lines that can never match are found by ``shadowed``, not here.
    """
    before = len(problems.errors)
    source = inputs.list_text(variable, problems)
    if source is None:
        if required and len(problems.errors) == before:
            problems.error(variable, None, "", "is not set", f"one destination a line: {EXPECTED}")
        return None
    heads = Heads(source, problems)
    lines, last = _read_lines(source, heads, problems)
    _check_order(source, lines, last, heads.sections, problems)
    if not lines and len(problems.errors) == before:
        problems.error(source.variable, None, "", "has no destination", f"one destination a line: {EXPECTED}")
    if len(lines) > MAX_LINES:
        problems.error(source.variable, lines[MAX_LINES].number, "", f"more than {MAX_LINES} lines", "fewer lines")
    if len(problems.errors) > before:
        return None
    heads.warn_unused({line.section for line in lines})
    policy = Policy(lines, source.variable, tuple(heads.sections))
    if (wrong := _too_large(policy)) is not None:
        problems.error(source.variable, None, "", *wrong)
        return None
    return policy


def _read_lines(
    source: SourceText, heads: Heads, problems: Problems
) -> tuple[tuple[PolicyLine, ...], Mapping[int, int]]:
    """Return the lines, and the number of the last one in every section, whether it is right or wrong."""
    lines = []
    last: dict[int, int] = {}
    for raw in source.lines():
        if is_head(raw.text):
            heads.read(raw)
            continue
        last[heads.place] = raw.number
        if line := _parse_line(source, raw, problems):
            lines.append(replace(line, section=heads.place) if heads.place else line)
    return tuple(lines), last


def _check_order(
    source: SourceText,
    lines: Sequence[PolicyLine],
    last: Mapping[int, int],
    sections: Sequence[Section],
    problems: Problems,
) -> None:
    """Note every ``*`` that a line for the same clients comes behind."""
    end = max(last.values(), default=0)
    for line in lines:
        if not isinstance(line.target, Anything):
            continue
        everybody = sections[line.section].networks is None
        if line.number != (end if everybody else last[line.section]):
            expected = "* only as the last line" + (", or the last of a section" if len(sections) > 1 else "")
            problems.error(source.variable, line.number, line.text, "is not the last line", expected)


def _too_large(policy: Policy) -> tuple[str, str] | None:
    """Return what is too much about a policy, and what would be right."""
    if (lists := len(port_lists(policy))) > MAX_PORT_LISTS:
        return f"has {lists} different port lists on address lines", f"at most {MAX_PORT_LISTS}"
    count, lines = branch_lines(policy)
    if count > MAX_BRANCHES:
        message = f"has sections whose networks overlap in {count} ways"
        return message, f"at most {MAX_BRANCHES} ways; sections for networks that lie apart"
    if lines > MAX_BRANCH_LINES:
        message = f"has sections whose networks overlap so that {lines} lines are to be kept apart"
        return message, f"at most {MAX_BRANCH_LINES} lines; those for everybody in front of all sections"
    if most_ranges(policy) > MAX_RANGES:
        message = "has too many address lines between denied names, or too many of them with different ports"
        return message, "address lines together, before or after the names"
    if (count := alternations(policy)) > MAX_ALTERNATIONS:
        message = f"alternates {count} times between names and addresses of opposite decisions"
        return message, f"at most {MAX_ALTERNATIONS} times; group the lines"
    return None


def _parse_line(source: SourceText, raw: Line, problems: Problems) -> PolicyLine | None:
    if len(raw.words) != 1:
        if (instead := from_squid(raw.words)) is not None:
            problems.error(source.variable, raw.number, raw.text, "is a line of a squid.conf", instead)
            return None
        problems.error(source.variable, raw.number, raw.text, "has white space inside", "one destination a line")
        return None
    try:
        return _parse_destination(source, raw, problems)
    except Bad as bad:
        problems.error(source.variable, raw.number, raw.text, bad.message, bad.expected)
        return None


def _parse_destination(source: SourceText, raw: Line, problems: Problems) -> PolicyLine:
    text = raw.words[0]
    if "://" in text:
        raise Bad("is a URL", f"{_host_of(text)}: the host alone, and :port behind it if only that port is meant")
    decision = Decision.DENY if text.startswith("!") else Decision.ALLOW
    host, port_text = _split_ports(text.removeprefix("!"))
    target = _parse_host(host, source, raw, problems)
    try:
        ports = ANY_PORT if port_text is None else parse_ports(port_text)
    except ValueError as error:
        raise Bad(str(error), "ports such as :443 or :443,8443 or :8000-8010") from None
    if decision is Decision.ALLOW and isinstance(target, Block) and target.single and target.first in NOWHERE:
        raise Bad("is no address that can be connected to", "the address of a server")
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
            raise Bad("is not [address], [network/length] or one of these and :ports", "such as [2001:db8::/32]:443")
        return host + bracket, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, ports = text.partition(":")
    return host, ports if colon else None


def _parse_host(host: str, source: SourceText, raw: Line, problems: Problems) -> Name | Block | Anything:
    if host == "*":
        return Anything()
    if host.startswith("[") or ":" in host:
        return parse_network(host.strip("[]"), source, raw, problems, ipv6=True)
    labels = host.removesuffix(".").lower().split(".")
    if "/" in host and not host[0].isdecimal():
        raise Bad("has a / although it is no network", "the host of a URL alone: what follows it is not looked at")
    if "/" in host or all(label.isdecimal() for label in labels):
        return parse_network(host, source, raw, problems)
    return _parse_name(host)


def _parse_name(text: str) -> Name:
    subdomains = text.startswith(("*.", "."))
    bare = text.removeprefix("*").removeprefix(".") if subdomains else text
    try:
        mapped = bare.lower() if bare.isascii() else idna.uts46_remap(bare, std3_rules=False)
        labels = [_label(label) for label in mapped.removesuffix(".").split(".")]
    except idna.IDNAError as error:
        raise Bad(f"is not a host name: {error}") from None
    name = ".".join(labels)
    if _NUMBER.fullmatch(labels[-1]):
        raise Bad("is neither an address in full nor a name (no name ends in a number)")
    if len(name) > 253:
        raise Bad("is longer than the 253 characters of a host name")
    return Name(name, subdomains)


def asked_host(text: str) -> str:
    """Return a host as clients ask for it: an international name in ASCII. ValueError says what is wrong."""
    if text.isascii():
        return text
    try:
        return ".".join(_label(label) for label in idna.uts46_remap(text, std3_rules=False).split(".") if label)
    except (idna.IDNAError, Bad) as error:
        raise ValueError(f'"{text}" is not a host name: {error}') from None


def _label(label: str) -> str:
    encoded = label if label.isascii() else idna.alabel(label).decode("ascii")
    if not encoded:
        raise Bad("has an empty part between dots")
    if "*" in encoded:
        raise Bad("has a * that is neither alone nor in front as *.")
    if not _LABEL.fullmatch(encoded):
        raise Bad("is neither an address nor a host name")
    return encoded
