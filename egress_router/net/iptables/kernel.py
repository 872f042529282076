"""Legacy iptables as a place for rules of ours beside those of others: put, read back, compare, count, remove."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from egress_router.config.values import Family
from egress_router.errors import EgressRouterError
from egress_router.net.forked import Job, start
from egress_router.net.iptables.platform import available_families
from egress_router.net.iptables.rules import IptTable
from egress_router.records import dataclass

#: Makes the tables of a family where they are needed: those of thousands of rules take memory, which goes with a child.
MakeTables = Callable[[], Sequence[IptTable]]
#: What rules have counted: the line that a rule stands for, packets, bytes; by table. See IptRule.
Counted = dict[str, list[tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class Put:
    """What ``put`` found different before, and the digests of the tables as they were found to be right."""

    drift: list[str]
    digests: dict[str, str]


class Iptables(Protocol):
    """Our part of legacy iptables: chains of one prefix, and the rules of built-in chains that jump there. What belongs
    to others is never touched. The kernel's and the fake obey the same contract tests.

    All methods raise PlatformError. Families are done side by side.
    """

    def families(self) -> tuple[Family, ...]:
        """Return the families that the kernel offers."""
        ...

    def apply(self, tables: Mapping[Family, MakeTables]) -> dict[Family, tuple[bool, dict[str, str]]]:
        """Make the kernel have exactly these, one commit a table, those that differ; read back and compare. Return
        whether any did, and the digests of the tables. Raises StateMismatch when what was read back is something else.
        Rules that stay keep what they have counted.
        """
        ...

    def repair(self, tables: Mapping[Family, MakeTables]) -> dict[Family, Put]:
        """Do as ``apply``; return what was different before, as ``drift`` does."""
        ...

    def fill(self, tables: Mapping[Family, MakeTables]) -> dict[Family, dict[str, str]]:
        """Give the chains of these tables, and no others, their rules, and look at nothing else; return the digests of
        what they were found in. Raises StateMismatch as ``apply``.
        """
        ...

    def drift(self, tables: Mapping[Family, MakeTables]) -> list[str]:
        """Return the differences, a line each: ``-`` desired and missing, ``+`` there and not desired."""
        ...

    def counters(self, tables: Mapping[Family, MakeTables]) -> dict[Family, Counted]:
        """Return what the rules that stand for a line have counted."""
        ...

    def remove(self, names: Collection[str]) -> None:
        """Take everything of ours out of these tables, in all families."""
        ...


class IptablesKernel:
    """The kernel of the network namespace that the process is in, by python-iptables, in a child for each family."""

    def __init__(self, prefix: str) -> None:
        """``prefix`` begins the names of our chains."""
        self._prefix = prefix

    def families(self) -> tuple[Family, ...]:
        """See Iptables."""
        return available_families()

    def apply(self, tables: Mapping[Family, MakeTables]) -> dict[Family, tuple[bool, dict[str, str]]]:
        """See Iptables."""
        return {family: (bool(changed), own) for family, (changed, own) in self._do("apply", tables).items()}

    def repair(self, tables: Mapping[Family, MakeTables]) -> dict[Family, Put]:
        """See Iptables."""
        return {family: Put(*found) for family, found in self._do("repair", tables).items()}

    def fill(self, tables: Mapping[Family, MakeTables]) -> dict[Family, dict[str, str]]:
        """See Iptables."""
        return self._do("fill", tables)

    def drift(self, tables: Mapping[Family, MakeTables]) -> list[str]:
        """See Iptables."""
        return [line for lines in self._do("drift", tables).values() for line in lines]

    def counters(self, tables: Mapping[Family, MakeTables]) -> dict[Family, Counted]:
        """See Iptables."""
        return {
            family: {table: [(line, packets, size) for line, packets, size in rows] for table, rows in own.items()}
            for family, own in self._do("counters", tables).items()
        }

    def remove(self, names: Collection[str]) -> None:
        """See Iptables."""
        nothing = partial(nothing_of, names)
        self._do("apply", dict.fromkeys(self.families(), nothing))

    def _do(self, verb: str, tables: Mapping[Family, MakeTables]) -> dict[Family, Any]:
        if len(tables) < 2:
            return self._side_by_side(verb, tables)
        found = start(["iptables", verb], lambda: list(self._loaded(verb, tables).values())).result()
        return dict(zip(tables, found, strict=True))

    def _loaded(self, verb: str, tables: Mapping[Family, MakeTables]) -> dict[Family, Any]:
        """Do the same in a process that has loaded python-iptables for all: that takes as long as all else."""
        from egress_router.net.iptables.tables import load

        load()
        return self._side_by_side(verb, tables)

    def _side_by_side(self, verb: str, tables: Mapping[Family, MakeTables]) -> dict[Family, Any]:
        jobs = {family: self._start(verb, family, make) for family, make in tables.items()}
        found: dict[Family, Any] = {}
        failed: list[EgressRouterError] = []
        for family, job in jobs.items():
            # The other family has its time also where one fails: its child ends with us, in the middle of its work.
            try:
                found[family] = job.result()
            except EgressRouterError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return found

    def _start(self, verb: str, family: Family, make: MakeTables) -> Job:
        return start(["iptables", verb, str(family)], lambda: self._work(verb, family, make))

    def _work(self, verb: str, family: Family, make: MakeTables) -> Any:
        # Loads python-iptables, for which a process has one family.
        from egress_router.net.iptables.tables import Tables

        return getattr(Tables(family, self._prefix), verb)(make())


def nothing_of(names: Iterable[str]) -> list[IptTable]:
    """Return tables without anything of ours."""
    return [IptTable(name, {}, ()) for name in names]
