"""The legacy iptables backend: own chains in nat, filter and mangle; python-iptables in one child per family."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from egress_router.errors import PlatformError
from egress_router.kernel.forked import Job, start
from egress_router.model.addresses import Family
from egress_router.model.iptables import IptTable
from egress_router.model.names import HostName
from egress_router.model.translation import Counters, Translation
from egress_router.render.iptables_names import name_chain, spread_rules
from egress_router.render.iptables_tables import iptables_tables

_NAMES = {Family.IPV4: "/proc/net/ip_tables_names", Family.IPV6: "/proc/net/ip6_tables_names"}
_TABLES = ("filter", "mangle", "nat")


class Iptables:
    """Implements ``NatBackend`` with legacy iptables."""

    name = "iptables"

    def apply(self, desired: Translation) -> bool:
        """See NatBackend. IPv4 and IPv6 are committed side by side."""
        return any(in_children(desired, "apply").values())

    def mend(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return [line for lines in in_children(desired, "mend").values() for line in lines]

    def readdress(self, desired: Translation, names: Collection[HostName]) -> None:
        """See NatBackend."""
        readdressed(desired, names)

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return [line for lines in in_children(desired, "drift").values() for line in lines]

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        found: dict[int, Counters] = {}
        for family, tables in in_children(desired, "counters").items():
            for line, counters in by_line(desired, family, tables).items():
                found[line] = found.get(line, Counters()) + counters
        return found

    def remove(self) -> None:
        """See NatBackend."""
        jobs = {family: _start(family, "remove", lambda: _TABLES) for family in families_of(None)}
        for job in jobs.values():
            job.result()


def families_of(desired: Translation | None) -> list[Family]:
    """Return the families that the kernel has iptables for; those that are needed must be among them."""
    found = [family for family in Family if Path(_NAMES[family]).exists()]
    for family in desired.sources if desired else ():
        if family not in found:
            raise PlatformError(
                f"this kernel offers no legacy iptables for {family} ({_NAMES[family]} is missing): "
                "set EGRESS_NAT_BACKEND=nftables"
            )
    return found


def in_children(desired: Translation, verb: str) -> dict[Family, Any]:
    """Return what ``verb`` of iptables_child.Tables returns in each family, done side by side."""
    jobs = {family: _start(family, verb, partial(iptables_tables, desired, family)) for family in families_of(desired)}
    return {family: job.result() for family, job in jobs.items()}


def readdressed(desired: Translation, names: Collection[HostName]) -> dict[Family, tuple[frozenset[str], str]]:
    """Do as Iptables.readdress; return, for each family, which chains of ``nat`` have their rules, and the digest of
    the table that they were found in.
    """
    chains: dict[Family, frozenset[str]] = {}
    jobs: dict[Family, Job] = {}
    for family in desired.sources:
        spreads = [spread for spread in desired.spreads(family) if spread.rule.name in names]
        if spreads:
            table = IptTable("nat", {name_chain(spread.rule): spread_rules(spread) for spread in spreads}, ())
            chains[family] = frozenset(table.chains)
            jobs[family] = _start(family, "fill", partial(tuple, [table]))
    return {family: (chains[family], job.result()["nat"]) for family, job in jobs.items()}


def by_line(desired: Translation, family: Family, tables: dict[str, list[tuple[int, int, int]]]) -> dict[int, Counters]:
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


def _start(family: Family, verb: str, argument: Callable[[], Any]) -> Job:
    """Fork a child that does ``verb`` of iptables_child.Tables with what ``argument`` returns there."""
    return start(["iptables", verb, str(family)], lambda: _work(family, verb, argument()))


def _work(family: Family, verb: str, argument: Any) -> Any:
    from egress_router.kernel.iptables_child import Tables

    return getattr(Tables(family), verb)(argument)
