"""Where a connection goes by the rendered tables: walks iptables chains and looks up nft maps as the kernel does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress_router.config.values import Family, Protocol
from egress_router.net.iptables.rules import IptRule
from egress_router.net.nft.values import NftTable
from egress_router.redirect.values import Ruleset

Chains = Mapping[str, tuple[IptRule, ...]]
#: Address and port that a connection goes to; None when nothing translates it.
Target = tuple[str, int] | None


def by_rules(rules: Ruleset, family: Family, protocol: Protocol, port: int) -> Target:
    """What the configuration says."""
    for rule in rules.redirects:
        if rule.family is family and rule.protocol is protocol and port in rule.ports:
            return str(rule.address), rule.to_ports.first + port - rule.ports.first
    return next(((str(item.address), port) for item in rules.fallbacks if item.family is family), None)


def ports_of(rule: IptRule) -> tuple[int, int]:
    """The ports that a rule matches, both ends included."""
    for match in rule.matches:
        for key, value in match.options:
            if key in ("dport", "ctorigdstport"):
                first, _, last = value.partition(":")
                return int(first), int(last or first)
    return 0, 65535


@dataclass
class Walk:
    """Walks chains for one protocol and port; ``looked_at`` counts rules, ``leaves`` are the verdicts that matched."""

    chains: Chains
    protocol: str
    port: int
    looked_at: int = 0
    leaves: list[IptRule] = field(default_factory=list)

    def run(self, rules: tuple[IptRule, ...]) -> bool:
        """Return whether a verdict ended the walk; False when the chain ended or returned."""
        for rule in rules:
            self.looked_at += 1
            first, last = ports_of(rule)
            if rule.protocol not in (None, self.protocol) or not first <= self.port <= last:
                continue
            if rule.target in self.chains:
                done = self.run(self.chains[rule.target])
                if done or rule.goto:
                    return done
                continue
            self.leaves.append(rule)
            return rule.target != "RETURN"
        return False


def dnat_target(rule: IptRule, port: int) -> Target:
    """Where ``-j DNAT --to-destination`` sends ``port``; ``FIRST-LAST/BASE`` keeps the offset from BASE."""
    text = dict(rule.options)["to-destination"]
    if text.startswith("["):
        address, _, ports = text[1:].partition("]")
        ports = ports.removeprefix(":")
    elif "." in text:
        address, _, ports = text.partition(":")
    else:
        address, ports = text, ""
    if not ports:
        return address, port
    numbers, _, base = ports.partition("/")
    first, _, _ = numbers.partition("-")
    return address, int(first) + (port - int(base) if base else 0)


def by_nft(table: NftTable, family: Family, protocol: Protocol, port: int) -> Target:
    """Follow the redirect chain of ``family``: the exact map, the range maps, the fallback."""
    digit = family.value
    chain = next((chain for chain in table.chains if chain.name == f"redirect{digit}"), None)
    if chain is None:
        return None
    maps = {item.name: item.elements for item in table.sets}
    for rule in chain.rules:
        words = rule.split()
        if words[-1] == f"@redirect{digit}":
            value = maps[f"redirect{digit}"].get(f"{protocol} . {port}")
            if value is not None:
                address, _, to_port = value.partition(" . ")
                return address, int(to_port)
        elif words[-1].startswith("@"):
            if words[3] != protocol:
                continue
            for key, value in maps[words[-1][1:]].items():
                first, _, last = key.partition("-")
                if int(first) <= port <= int(last or first):
                    assert value is not None
                    return value, port
        else:
            return words[-1], port
    return None
