"""The legacy iptables backend: own chains in nat, filter and mangle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from egress_router.config.values import Family, HostName
from egress_router.errors import PlatformError
from egress_router.net.iptables.kernel import Counted, Iptables, IptablesKernel, MakeTables
from egress_router.net.iptables.platform import NAMES_FILES
from egress_router.net.iptables.rules import IptTable
from egress_router.redirect.iptables_rules import PREFIX, iptables_tables, name_chain, spread_rules
from egress_router.redirect.offload import NOT_WITH_IPTABLES, OFF
from egress_router.redirect.values import Counters, FlowOffload, Translation

_TABLES = ("filter", "mangle", "nat")


class IptablesBackend:
    """Implements ``NatBackend`` with legacy iptables."""

    name = "iptables"

    def __init__(self, iptables: Iptables | None = None) -> None:
        self.iptables = iptables or IptablesKernel(PREFIX)

    def apply(self, desired: Translation) -> bool:
        """See NatBackend. IPv4 and IPv6 are committed side by side."""
        return any(changed for changed, _ in self.iptables.apply(self.tables(desired)).values())

    def repair(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return [line for put in self.iptables.repair(self.tables(desired)).values() for line in put.drift]

    def update_targets(self, desired: Translation, names: Collection[HostName]) -> None:
        """See NatBackend."""
        self.iptables.fill(tables_of(answer_table(desired, names)))

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return self.iptables.drift(self.tables(desired))

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        found: dict[int, Counters] = {}
        for family, tables in self.iptables.counters(self.tables(desired)).items():
            for line, counters in by_line(desired, family, tables).items():
                found[line] = found.get(line, Counters()) + counters
        return found

    def remove(self) -> None:
        """See NatBackend."""
        self.iptables.remove(_TABLES)

    def cannot_offload(self) -> str:
        """See NatBackend."""
        return NOT_WITH_IPTABLES

    def why_no_offload(self, desired: Translation) -> str:
        """See NatBackend."""
        return OFF if desired.offload is FlowOffload.OFF else NOT_WITH_IPTABLES

    def tables(self, desired: Translation) -> dict[Family, MakeTables]:
        """Return how the tables of each family are made. Raises PlatformError when the kernel has no iptables for one
        that is needed.
        """
        return {family: partial(iptables_tables, desired, family) for family in self.families(desired)}

    def families(self, desired: Translation) -> tuple[Family, ...]:
        """Return the families that the kernel has iptables for; those that are needed must be among them."""
        found = self.iptables.families()
        for family in desired.sources:
            if family not in found:
                raise PlatformError(
                    f"this kernel offers no legacy iptables for {family} ({NAMES_FILES[family]} is missing, or IPv6 is "
                    "disabled): set EGRESS_NAT_BACKEND=nftables, or load the modules on the node (modprobe -a "
                    "ip_tables ip6_tables): no kernel does so by itself"
                )
        return found


def answer_table(desired: Translation, names: Collection[HostName]) -> dict[Family, IptTable]:
    """Return the chains of ``nat`` that the answers for ``names`` change, by family."""
    found = {}
    for family in desired.sources:
        spreads = [spread for spread in desired.spreads(family) if spread.rule.name in names]
        if spreads:
            found[family] = IptTable("nat", {name_chain(spread.rule): spread_rules(spread) for spread in spreads}, ())
    return found


def tables_of(found: Mapping[Family, IptTable]) -> dict[Family, MakeTables]:
    """Return one table of each family, as those who write them take it."""
    return {family: partial(tuple, [table]) for family, table in found.items()}


def by_line(desired: Translation, family: Family, tables: Counted) -> dict[int, Counters]:
    """Connections are what the nat rules counted, packets and bytes what mangle counted; the fallback gets the rest."""
    found = {rule.line: Counters() for rule in desired.rules.redirects if rule.family == family}
    last = [rule.line for rule in desired.rules.fallbacks if rule.family == family]
    if family in desired.sources:
        found |= {rule.line: Counters() for rule in desired.rules.named}
        last += [desired.rules.named_fallback.line] if desired.rules.named_fallback else []
    total = [0, 0]
    for line, packets, size in tables.get("mangle", ()):
        if line == 0:
            total = [total[0] + packets, total[1] + size]
        elif line in found:
            found[line] = Counters(0, packets, size)
    rest = Counters(
        0, total[0] - sum(c.packets for c in found.values()), total[1] - sum(c.bytes for c in found.values())
    )
    found |= dict.fromkeys(last, rest)
    for line, packets, _ in tables.get("nat", ()):
        if line in found:
            old = found[line]
            found[line] = Counters(old.connections + packets, old.packets, old.bytes)
    return found
