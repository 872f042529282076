"""Iptables without a kernel, for unit tests: it keeps what is put there, and counts what a test says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from egress_router.config.values import Family
from egress_router.errors import PlatformError, StateMismatch
from egress_router.net.iptables.kernel import Counted, MakeTables, Put, nothing_of
from egress_router.net.iptables.rules import IptRule, IptTable, chain_lines, hook_lines

_TABLES = ("filter", "mangle", "nat")
_Hooks = tuple[tuple[str, IptRule], ...]


class FakeIptables:
    """Implements ``Iptables``. ``steps`` are the tables that were committed, in order."""

    def __init__(self, families: Collection[Family] = tuple(Family)) -> None:
        self._families = tuple(families)
        self.chains: dict[tuple[Family, str], dict[str, tuple[IptRule, ...]]] = {}
        self.hooks: dict[tuple[Family, str], _Hooks] = {}
        #: Packets and bytes, by family, table, chain and position of the rule.
        self.counted: dict[tuple[Family, str, str, int], tuple[int, int]] = {}
        self.steps: list[tuple[str, Family, str]] = []
        #: Commits are refused, or lost, as long as these say so.
        self.refuses = self.forgets = False

    def families(self) -> tuple[Family, ...]:
        """See Iptables."""
        return self._families

    def apply(self, tables: Mapping[Family, MakeTables]) -> dict[Family, tuple[bool, dict[str, str]]]:
        """See Iptables."""
        found = {}
        for family, make in tables.items():
            wanted, changed = make(), False
            for table in wanted:
                if self._drift(family, [replace(table, unknown=frozenset())]):
                    self._commit("put", family, table.name, dict(table.chains), table.hooks)
                    changed = True
            self._require(self._drift(family, wanted) if changed else [])
            found[family] = changed, self._digests(family, wanted)
        return found

    def repair(self, tables: Mapping[Family, MakeTables]) -> dict[Family, Put]:
        """See Iptables."""
        found = {}
        for family, make in tables.items():
            before = self._drift(family, make())
            if before:
                self.apply({family: make})
            found[family] = Put(before, self._digests(family, make()))
        return found

    def fill(self, tables: Mapping[Family, MakeTables]) -> dict[Family, dict[str, str]]:
        """See Iptables."""
        found = {}
        for family, make in tables.items():
            wanted = make()
            for table in wanted:
                key = family, table.name
                there = self.chains.get(key, {})
                if any(there.get(name) != rules for name, rules in table.chains.items()):
                    self._commit("fill", family, table.name, there | table.chains, self.hooks.get(key, ()))
                self._require(self._chain_drift(family, table))
            found[family] = self._digests(family, wanted)
        return found

    def drift(self, tables: Mapping[Family, MakeTables]) -> list[str]:
        """See Iptables."""
        return [line for family, make in tables.items() for line in self._drift(family, make())]

    def counters(self, tables: Mapping[Family, MakeTables]) -> dict[Family, Counted]:
        """See Iptables."""
        found: dict[Family, Counted] = {}
        for family, make in tables.items():
            own = found.setdefault(family, {})
            for table in make():
                rows = own.setdefault(table.name, [])
                for name in table.chains.keys() & self.chains.get((family, table.name), {}).keys():
                    for position, rule in enumerate(table.chains[name]):
                        packets, size = self.counted.get((family, table.name, name, position), (0, 0))
                        if rule.line is not None:
                            rows.append((rule.line, -packets if rule.target == "ACCEPT" else packets, size))
        return found

    def remove(self, names: Collection[str]) -> None:
        """See Iptables."""
        self.apply({family: lambda: nothing_of(names) for family in self._families})

    def _drift(self, family: Family, tables: Collection[IptTable]) -> list[str]:
        found: list[str] = []
        for table in tables:
            if table.name not in _TABLES:
                raise PlatformError(f"the kernel has no iptables table {table.name} for {family}")
            there = self.chains.get((family, table.name), {})
            found += [f"- -t {table.name} -N {name}" for name in table.chains if name not in there]
            found += self._chain_drift(family, table)
            if _bare(rule for _, rule in self.hooks.get((family, table.name), ())) != _bare(
                rule for _, rule in table.hooks
            ):
                found += hook_lines(table)
            found += [f"+ -t {table.name} -N {name}" for name in there if name not in table.chains]
        return [f"{line} ({family})" for line in found]

    def _chain_drift(self, family: Family, table: IptTable) -> list[str]:
        there = self.chains.get((family, table.name), {})
        return [
            line
            for name, rules in table.chains.items()
            if name not in table.unknown
            for line in chain_lines(table.name, name, rules, _bare(rules), _bare(there.get(name, ())))
        ]

    def _commit(
        self, verb: str, family: Family, table: str, chains: dict[str, tuple[IptRule, ...]], hooks: _Hooks
    ) -> None:
        if self.refuses:
            raise PlatformError(f"iptables table {table} ({family}): refused")
        self.steps.append((verb, family, table))
        if self.forgets:
            return
        key = family, table
        kept = {
            (name, rule): self.counted[family, table, name, position]
            for name, rules in self.chains.get(key, {}).items()
            for position, rule in enumerate(_bare(rules))
            if (family, table, name, position) in self.counted
        }
        self.counted = {place: values for place, values in self.counted.items() if place[:2] != key}
        for name, rules in chains.items():
            for position, rule in enumerate(_bare(rules)):
                if (name, rule) in kept:
                    self.counted[family, table, name, position] = kept[name, rule]
        self.chains[key], self.hooks[key] = dict(chains), hooks

    def _digests(self, family: Family, tables: Collection[IptTable]) -> dict[str, str]:
        return {table.name: repr(self.chains.get((family, table.name))) for table in tables}

    def _require(self, drift: list[str]) -> None:
        if drift:
            raise StateMismatch("the iptables rules that were read back are not those of the commit: " + str(drift))


def _bare(rules: object) -> list[IptRule]:
    """Return rules as the kernel keeps them: without the line that they stand for."""
    return [replace(rule, line=None) for rule in rules]  # type: ignore[attr-defined]
