"""Both backends send the connections of rules with names to all of their addresses alike, and nowhere without any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.values import Address, Family, HostName, PortRange, Protocol, family_of
from egress_router.net.iptables.rules import IptRule, IptTable
from egress_router.net.nft.listing import parse_table
from egress_router.net.nft.script import (
    chain_changes,
    change_script,
    element_changes,
    replace_script,
    table_text,
)
from egress_router.net.nft.values import NftTable
from egress_router.redirect.iptables_rules import PREFIX, iptables_tables
from egress_router.redirect.nft_names import answer_chains
from egress_router.redirect.nft_rules import nft_table
from egress_router.redirect.values import NamedFallback, NamedRedirect, Ruleset, Translation
from tests.support.examples import examples

ADDRESSES: list[Address] = [
    ip_address(text)
    for text in ("203.0.113.25", "203.0.113.26", "203.0.113.27", "2001:db8:113::25", "2001:db8:113::26")
]
NAMES = [HostName(text) for text in ("api.example.com", "db.example.com.", "web")]
#: Where a connection goes, with which probability; None: it is no rule's.
Where = dict[tuple[str, int], float] | None


@st.composite
def translations(
    draw: st.DrawFn,
    protocols: Sequence[Protocol] = tuple(Protocol),
    fallbacks: Sequence[NamedFallback | None] = (None, NamedFallback(100, NAMES[0])),
) -> Translation:
    """Rules with names for separate ports, some of them answered."""
    starts = draw(st.lists(st.integers(1, 60), unique=True, min_size=len(protocols) == 1, max_size=6))
    named = []
    for line, start in enumerate(sorted(starts), start=1):
        ports = PortRange(start * 10, start * 10 + draw(st.integers(0, 9)))
        shift = draw(st.sampled_from([0, 0, 1, 1000]))
        to_ports = PortRange(ports.first + shift, ports.last + shift)
        protocol = draw(st.sampled_from(protocols))
        named.append(NamedRedirect(line, protocol, ports, draw(st.sampled_from(NAMES)), to_ports))
    fallback = draw(st.sampled_from(fallbacks))
    answers = draw(
        st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(ADDRESSES), unique=True).map(tuple))
    )
    return Translation(
        egress="macvlan0",
        cluster="eth0",
        pod_addresses={Family.IPV4: (ip_address("10.128.0.5"),), Family.IPV6: (ip_address("2001:db8:c::5"),)},
        sources={Family.IPV4: ip_address("192.0.2.46"), Family.IPV6: ip_address("2001:db8:2::46")},
        rules=Ruleset(named=tuple(named), named_fallback=fallback),
        cluster_prefixes={},
        health_port=9909,
        answers=answers,
    )


def by_rules(desired: Translation, family: Family, protocol: Protocol, port: int) -> Where:
    rule: NamedRedirect | NamedFallback | None = next(
        (rule for rule in desired.rules.named if rule.protocol is protocol and port in rule.ports),
        desired.rules.named_fallback,
    )
    if rule is None or (isinstance(rule, NamedFallback) and (protocol, port) == (Protocol.TCP, 9909)):
        return None
    shift = rule.to_ports.first - rule.ports.first if isinstance(rule, NamedRedirect) else 0
    found = [item for item in (desired.answers or {}).get(rule.name, ()) if family_of(item) is family]
    return {(str(address), port + shift): 1 / len(found) for address in found}


def elements(text: str) -> dict[str, str]:
    """Take a map in braces apart."""
    inner = text[text.index("{") + 1 : text.rindex("}")]
    return {key.strip(): value.strip() for key, _, value in (part.partition(" : ") for part in inner.split(","))}


def by_nft(table: NftTable, family: Family, protocol: Protocol, port: int) -> Where:
    chains = {chain.name: chain.rules for chain in table.chains}
    maps = {item.name: item.elements for item in table.sets}
    if f"redirect{family.value}" not in chains:
        return None
    for rule in chains[f"redirect{family.value}"]:
        look_up = re.fullmatch(r"(\w+) dport vmap @(\w+)", rule)
        if look_up and look_up[1] == protocol:
            for key, verdict in maps[look_up[2]].items():
                first, _, last = key.partition("-")
                if int(first) <= port <= int(last or first):
                    return by_chain(chains, (verdict or "").removeprefix("goto "), port)
        elif rule == f"tcp dport {port} return" and protocol is Protocol.TCP:
            return None
        elif " counter goto " in rule:
            return by_chain(chains, rule.rpartition(" ")[2], port)
    return None


def by_chain(chains: dict[str, tuple[str, ...]], name: str, port: int) -> Where:
    jump, drop = chains[name]
    assert drop == "counter drop"
    found: dict[tuple[str, int], float] = {}
    left = 1.0
    for rule in chains[jump.removeprefix("jump ")]:
        if rule.startswith("ct mark set 0x"):
            continue
        spread = re.fullmatch(r"dnat ip6? to numgen random mod (\d+) map (\{.*\})", rule)
        one = re.fullmatch(r"dnat ip6? to (\S+)", rule)
        shifted = re.fullmatch(r"(?:numgen random mod (\d+) 0 )?dnat ip6? to \w+ dport map (\{.*\})", rule)
        if spread:
            chosen = elements(spread[2])
            assert list(chosen) == [str(number) for number in range(int(spread[1]))]
            found |= {(address, port): left / int(spread[1]) for address in chosen.values()}
        elif one:
            found[one[1], port] = left
        else:
            assert shifted, rule
            address, _, to_port = elements(shifted[2])[str(port)].partition(" . ")
            found[address, int(to_port)] = left / int(shifted[1] or 1)
            left -= found[address, int(to_port)]
    return found


def by_iptables(tables: tuple[IptTable, ...], protocol: Protocol, port: int) -> Where:
    filter_, _, nat = tables
    found: dict[tuple[str, int], float] = {}
    left = 1.0

    def walk(rules: tuple[IptRule, ...]) -> str | None:
        """Return the verdict, None when the end was reached."""
        nonlocal left
        for rule in rules:
            options = {key: value for match in rule.matches for key, value in match.options}
            first, _, last = options.get("dport", "1:65535").partition(":")
            if rule.protocol not in (None, str(protocol)) or not int(first) <= port <= int(last or first):
                continue
            if rule.target in nat.chains:
                verdict = walk(nat.chains[rule.target])
                if verdict or rule.goto:
                    return verdict or "RETURN"
            elif rule.target == "DNAT":
                target = dict(rule.options)["to-destination"]
                chance = left * float(options.get("probability", "1"))
                found[destination(target, port)] = chance
                left -= chance
                if "probability" not in options:
                    return "DNAT"
            elif rule.target != "CONNMARK":
                return rule.target
        return None

    verdict = walk(nat.chains.get(f"{PREFIX}PREROUTING", ()))
    if verdict == "ACCEPT":
        assert not found
        late = Late(protocol, port)
        assert late.verdict(filter_.chains[f"{PREFIX}LATE"]) == "DROP", "it reaches the pod's own processes"
        return {}
    return found or None


class Late:
    """What a new connection meets in filter INPUT."""

    def __init__(self, protocol: Protocol, port: int) -> None:
        self.protocol, self.port = protocol, port

    def verdict(self, rules: tuple[IptRule, ...]) -> str | None:
        for rule in rules:
            options = {key: value for match in rule.matches for key, value in match.options}
            first, _, last = options.get("dport", "1:65535").partition(":")
            if options.get("ctstate", "NEW") != "NEW" or rule.protocol not in (None, str(self.protocol)):
                continue
            if int(first) <= self.port <= int(last or first):
                return rule.target
        return None


def destination(text: str, port: int) -> tuple[str, int]:
    """Read ``ADDRESS[:FIRST[-LAST/BASE]]``, with brackets where an IPv6 address has ports."""
    if text.startswith("["):
        address, _, ports = text[1:].partition("]:")
    elif text.count(":") > 1:
        address, ports = text, ""
    else:
        address, _, ports = text.partition(":")
    if not ports:
        return address, port
    first, _, base = ports.partition("/")
    return address, int(first.partition("-")[0]) + (port - int(base) if base else 0)


def same(one: Where, other: Where) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(abs(one[key] - other[key]) < 1e-9 for key in one)


@examples(25)
@given(translations())
def test_every_port_is_spread_alike_by_both_backends(desired: Translation) -> None:
    table = nft_table(desired)
    ports = {1, 9909}
    for rule in desired.rules.named:
        ports |= {rule.ports.first - 1, rule.ports.first, rule.ports.last, rule.ports.last + 1}
    for family in Family:
        tables = iptables_tables(desired, family)
        for protocol in Protocol:
            for port in ports:
                expected = by_rules(desired, family, protocol, port)
                assert same(by_nft(table, family, protocol, port), expected), (family, protocol, port)
                assert same(by_iptables(tables, protocol, port), expected), (family, protocol, port)


@examples(25)
@given(translations())
def test_nft_text_is_read_back_as_the_same_table(desired: Translation) -> None:
    table = nft_table(desired)
    assert parse_table(table_text(table)) == table


#: Of one protocol and without a fallback: whatever the ports, the tables have the same maps.
ALIKE = translations(protocols=(Protocol.TCP,), fallbacks=(None,))


@examples(50)
@given(ALIKE, ALIKE)
def test_nft_changes_of_names_are_made_in_an_order_that_works(old: Translation, new: Translation) -> None:
    """A chain is there before an element or a rule names it, and removed when nothing names it any more."""
    before, after = nft_table(old), nft_table(new)
    changes = element_changes(before, after)
    assert changes is not None
    chains = {chain.name: list(chain.rules) for chain in before.chains if chain.dynamic}
    maps = {item.name: dict(item.elements) for item in before.sets}
    for line in change_script(changes, before.name, chain_changes(before, after)).splitlines():
        verb, kind, _, _, name, *rest = line.split(" ", 5)
        if kind == "element":
            for key, value in ({} if not rest else elements(rest[0])).items():
                if verb == "add":
                    assert value.removeprefix("goto ") in chains or not value.startswith("goto ")
                    maps[name][key] = value or None
                else:
                    del maps[name][key]
        elif verb == "add" and kind == "chain":
            chains[name] = []
        elif verb == "add":
            assert rest[0].removeprefix("jump ") in chains or not rest[0].startswith("jump ")
            chains[name].append(rest[0])
        elif verb == "flush":
            chains[name] = []
        else:
            assert not chains.pop(name)
            assert not any(value == f"goto {name}" for values in maps.values() for value in values.values())
            assert not any(f"jump {name}" in rules for rules in chains.values())
    assert chains == {chain.name: list(chain.rules) for chain in after.chains if chain.dynamic}
    assert maps == {item.name: item.elements for item in after.sets}


@examples(25)
@given(translations())
def test_answers_change_the_chains_of_answers_alone(desired: Translation) -> None:
    unanswered = replace(desired, answers={})
    assert nft_table(desired).without_rules(answer_chains(desired)) == nft_table(unanswered)
    for family in Family:
        for one, other in zip(iptables_tables(desired, family), iptables_tables(unanswered, family), strict=True):
            assert one.hooks == other.hooks
            names = {name for name in one.chains if one.chains[name] != other.chains[name]}
            assert all(name.startswith(f"{PREFIX}to-") for name in names)
            assert one.name == "nat" or not names


@pytest.mark.parametrize("text", ["a" * 63 + "." + "b" * 63 + "." + "c" * 63, "x.example"])
def test_marks_and_comments(text: str) -> None:
    name = HostName(text)
    assert 0 < name.mark < 2**32
    desired = Translation(
        egress="macvlan0",
        cluster="eth0",
        pod_addresses={Family.IPV4: (ip_address("10.128.0.5"),)},
        sources={Family.IPV4: ip_address("192.0.2.46")},
        rules=Ruleset(named_fallback=NamedFallback(1, name)),
        cluster_prefixes={},
        answers={name: (ADDRESSES[0],)},
    )
    script = replace_script(nft_table(desired))
    assert f'ct mark set {name.mark:#010x} comment "{text[:127]}"' in script
    assert "dnat ip to 203.0.113.25\n" in script
