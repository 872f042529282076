"""Tables of the kernel's nftables: read, put in place, read back and compared, counted. By nft(8) and by netlink.

Chains and the sets' types are read with nft, elements by netlink: nft takes half a second for ten thousand.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from egress_router.errors import StateMismatch, ToolFailed
from egress_router.net.netlink import NetlinkError
from egress_router.net.nft.elements import NftSocket, known_types
from egress_router.net.nft.listing import difference, parse_table, rule_counters
from egress_router.net.nft.script import (
    chain_changes,
    change_script,
    element_changes,
    fill_chain,
    remove_script,
    replace_script,
)
from egress_router.net.nft.values import NftChain, NftSet, NftTable, SetChange
from egress_router.net.nft.wording import Wording
from egress_router.net.process import run_tool, start_tool
from egress_router.records import dataclass, replace

#: Something else in the namespace may change nftables at the same time.
ATTEMPTS = 10
#: So many elements and more take nft longer than a transaction of their own does.
_MANY = 500
_BUSY = "the nftables rules of this network namespace keep changing; something else writes them all the time"

#: Name of a set and key of its element, "chain NAME" and rule, "counter NAME" and "" → packets, bytes.
Counted = dict[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Put:
    """What ``Nft.put`` did: what was different before, and the generation at which the tables were found right."""

    changed: bool
    before: tuple[NftTable | None, ...]
    generation: int


class Nft(Protocol):
    """nftables as a place for tables; the kernel's and the fake obey the same contract tests."""

    def generation(self) -> int:
        """Return the number that every transaction of anybody adds one to."""
        ...

    def read(self, name: str, like: NftTable | None = None) -> NftTable | None:
        """Return a table, None when there is none; in the words and the order of ``like`` where it is like that."""
        ...

    def put(
        self,
        tables: Sequence[NftTable],
        remove: Collection[str] = (),
        known: tuple[int, Sequence[NftTable]] | None = None,
    ) -> Put:
        """Make the kernel have exactly ``tables``, and none of those called ``remove``; read back and compare.

        Where only elements and dynamic chains differ only they change; else a table is replaced as a whole, in one
        transaction with the rest, and rules that stay keep what they have counted. With ``known``, at whose generation
        the tables were found to be those, nothing is read while it is the kernel's. Raises PlatformError, and
        StateMismatch when what was read back is something else.
        """
        ...

    def change(self, old: Sequence[NftTable], new: Sequence[NftTable]) -> int:
        """Turn ``old`` into ``new`` by elements and dynamic chains in one transaction, reading nothing; return the
        generation. Raises PlatformError when the kernel refuses, or when more than that differs; then nothing changed.
        """
        ...

    def fill(self, table: str, chains: Iterable[NftChain]) -> int:
        """Give chains of a table their rules, whatever they have now, in one transaction; return the generation."""
        ...

    def replace(self, tables: Sequence[NftTable], remove: Collection[str] = ()) -> int:
        """Replace ``tables`` as a whole, whatever is there, and remove those called ``remove``, in one transaction that
        nothing is read before; read back and compare. Returns the generation, raises as ``put`` does.
        """
        ...

    def difference(self, tables: Sequence[NftTable], absent: Collection[str] = ()) -> list[str]:
        """Return a unified diff, desired against actual; empty when they are the same."""
        ...

    def counters(self, name: str) -> Counted:
        """Return what everything in a table has counted, see Counted; nothing without the table."""
        ...

    def totals(self, name: str) -> dict[str, int]:
        """Return the packets of each named counter of a table. Costs the same however many elements there are."""
        ...

    def remove(self, names: Collection[str]) -> None:
        """Remove tables, whether or not they are there."""
        ...


class NftKernel:
    """Implements ``Nft`` with the kernel of this network namespace. ``started`` is told the process of every nft(8)
    that may change something: notices bear it.
    """

    def __init__(self, started: Callable[[int], None] | None = None) -> None:
        self._started = started
        self._wording = Wording(self._run)

    def generation(self) -> int:
        """See Nft."""
        with NftSocket() as nft:
            return nft.generation()

    def read(self, name: str, like: NftTable | None = None) -> NftTable | None:
        """See Nft. With ``like`` elements are read while nft lists the rest."""
        finish = start_tool(["nft", "-s", "-t", "list", "table", *name.split()])
        try:
            elements = self._elements(like) if like is not None else None
        finally:
            listing = _unless_absent(finish)
        if listing is None:
            return None
        table = parse_table(listing)
        if like is not None:
            table = self._wording.ours(table, like)
        if elements is None or like is None or [s.header for s in like.sets] != [s.header for s in table.sets]:
            elements = self._elements(table)
        sets = tuple(
            replace(item, elements={key: value for key, (value, _) in elements.get(item.name, {}).items()})
            for item in table.sets
        )
        return replace(table, sets=sets)

    def put(
        self,
        tables: Sequence[NftTable],
        remove: Collection[str] = (),
        known: tuple[int, Sequence[NftTable]] | None = None,
    ) -> Put:
        """See Nft."""
        with NftSocket() as nft:
            for _ in range(ATTEMPTS):
                generation, actual = self._present(nft, tables, known)
                surplus = [name for name in remove if nft.has(name)]
                if not surplus and all(map(_same, tables, actual)):
                    return Put(False, actual, generation)
                try:
                    generation = self._write(nft, tables, actual, surplus, generation)
                except NetlinkError as error:
                    if error.code == errno.ERESTART:
                        continue
                    raise
                return Put(True, actual, generation)
        raise StateMismatch(_BUSY)

    def change(self, old: Sequence[NftTable], new: Sequence[NftTable]) -> int:
        """See Nft."""
        changes: list[tuple[str, SetChange]] = []
        script = ""
        for before, after in zip(old, new, strict=True):
            elements = element_changes(before, after)
            if elements is None:
                raise StateMismatch(f"the table {after.name} differs in more than elements")
            changes += [(after.name, change) for change in elements]
            script += change_script(elements, after.name, chain_changes(before, after))
        if not script:
            return self.generation()
        self._run(["-f", "-"], script)
        return self.generation()

    def fill(self, table: str, chains: Iterable[NftChain]) -> int:
        """See Nft."""
        self._run(["-f", "-"], "".join(f"{line}\n" for chain in chains for line in fill_chain(table, chain)))
        return self.generation()

    def replace(self, tables: Sequence[NftTable], remove: Collection[str] = ()) -> int:
        """See Nft."""
        script = "".join(map(replace_script, tables)) + "".join(map(remove_script, remove))
        self._run(["-f", "-"], script)
        with NftSocket() as nft:
            return self._read_back(nft, tables)

    def difference(self, tables: Sequence[NftTable], absent: Collection[str] = ()) -> list[str]:
        """See Nft."""
        found = [line for table in tables for line in difference(table, self.read(table.name, table))]
        with NftSocket() as nft:
            return found + [f"+table {name}" for name in absent if nft.has(name)]

    def counters(self, name: str) -> Counted:
        """See Nft."""
        listing = self._list(name)
        return {} if listing is None else rule_counters(listing) | self._element_counters(parse_table(listing))

    def totals(self, name: str) -> dict[str, int]:
        """See Nft."""
        try:
            text = run_tool(["nft", "-j", "list", "counters", "table", *name.split()])
        except ToolFailed:
            return {}
        listed = [item["counter"] for item in json.loads(text)["nftables"] if "counter" in item]
        return {item["name"]: int(item["packets"]) for item in listed}

    def remove(self, names: Collection[str]) -> None:
        """See Nft."""
        self._run(["-f", "-"], "".join(map(remove_script, names)))

    def _run(self, options: list[str], text: str) -> str:
        return run_tool(["nft", *options], text, self._started)

    def _present(
        self, nft: NftSocket, tables: Sequence[NftTable], known: tuple[int, Sequence[NftTable]] | None
    ) -> tuple[int, tuple[NftTable | None, ...]]:
        """Return the generation and what the tables are at it; read where it is not known."""
        if known is not None and known[0] == nft.generation():
            return known[0], tuple(known[1])
        for _ in range(ATTEMPTS):
            generation = nft.generation()
            found = tuple(self._first_look(table) if nft.has(table.name) else None for table in tables)
            if nft.generation() == generation:
                return generation, found
        raise StateMismatch(_BUSY)

    def _first_look(self, table: NftTable) -> NftTable | None:
        """Do as ``read``, in the words and the order of ``table``; elements are read after the rest."""
        listing = self._list(table.name, "-s")
        if listing is None:
            return None
        found = self._wording.ours(parse_table(listing), table)
        elements = self._elements(found)
        sets = (
            replace(item, elements={key: value for key, (value, _) in elements.get(item.name, {}).items()})
            for item in found.sets
        )
        return replace(found, sets=tuple(sets))

    def _list(self, name: str, *options: str) -> str | None:
        """Return a table without elements as nft lists it, None when there is none. Raises ToolFailed."""
        return _unless_absent(start_tool(["nft", *options, "-t", "list", "table", *name.split()]))

    def _elements(self, table: NftTable) -> dict[str, dict[str, tuple[str | None, tuple[int, int] | None]]]:
        """Return the elements of all sets; a set that is not there, or whose type is not known, has none."""
        found: dict[str, dict[str, tuple[str | None, tuple[int, int] | None]]] = {}
        with NftSocket() as nft:
            for item in table.sets:
                if item.timed or not known_types(item):
                    continue
                try:
                    found[item.name] = nft.read(table.name, item)
                except NetlinkError as error:
                    if error.code != errno.ENOENT:
                        raise
        return found

    def _element_counters(self, table: NftTable) -> Counted:
        return {
            (name, key): counted
            for name, elements in self._elements(table).items()
            for key, (_, counted) in elements.items()
            if counted is not None
        }

    def _counted(self, table: NftTable) -> Counted:
        """Return what ``table`` has counted, for the table that takes its place: rules as we write them."""
        listing = self._list(table.name)
        found = {} if listing is None else rule_counters(listing)
        for chain in table.chains:
            place = f"chain {chain.name}"
            for rule in chain.rules:
                values = found.get((place, self._wording.rule(rule)))
                if values is not None:
                    found[(place, rule)] = values
        return found | self._element_counters(table)

    def _write(
        self,
        nft: NftSocket,
        tables: Sequence[NftTable],
        actual: Sequence[NftTable | None],
        surplus: Sequence[str],
        generation: int,
    ) -> int:
        """Turn ``actual``, which is there at ``generation``, into ``tables``; return the generation at which they were
        read back. Raises ToolFailed, StateMismatch, NetlinkError (ERESTART: somebody else was faster).
        """
        now = list(actual)
        if len(tables) == 1 and now[0] is None and not surplus and _size(tables[0]) > _MANY:
            # Until its sets have elements the table lets nothing through.
            empty = tables[0].without_elements()
            self._run(["-f", "-"], replace_script(empty))
            generation = self._read_back(nft, [empty])
            now = [empty]
        script = "".join(map(remove_script, surplus))
        elements: list[tuple[str, SetChange]] = []
        only_elements = not surplus
        for table, before in zip(tables, now, strict=True):
            changes = None if before is None else element_changes(before, table)
            if before is None or changes is None:
                script += replace_script(table, {} if before is None else self._counted(before))
                only_elements = False
                continue
            chains = chain_changes(before, table)
            script += change_script(changes, table.name, chains)
            elements += [(table.name, change) for change in changes]
            only_elements &= not any(chains) and all(known_types(change.item) for change in changes)
        if only_elements:
            nft.change(elements, generation)
            # Chains, sets and the elements of other sets are as they were while nobody else makes a generation.
            held = nft.generation() == generation + 1 and all(nft.holds(name, c.item) for name, c in elements)
            if held and nft.generation() == generation + 1:
                return generation + 1
        else:
            self._run(["-f", "-"], script)
        return self._read_back(nft, tables)

    def _read_back(self, nft: NftSocket, tables: Sequence[NftTable]) -> int:
        """Check that the kernel has ``tables``; return a generation at which it had them. Raises StateMismatch.

        Others may write tables of their own meanwhile: what is found right is right whatever the generation.
        """
        found: list[str] = []
        for _ in range(ATTEMPTS):
            generation = nft.generation()
            found = [line for table in tables for line in difference(table, self.read(table.name, table))]
            if not found:
                return generation
            if nft.generation() == generation:
                break
        raise StateMismatch(
            "the nftables table that was read back is not the one that was loaded:\n" + "\n".join(found)
        )


def _same(table: NftTable, actual: NftTable | None) -> bool:
    if actual is None:
        return False
    timed = {item.name for item in table.sets if item.timed}
    if timed:
        actual = replace(actual, sets=tuple(_emptied(item) if item.name in timed else item for item in actual.sets))
    return actual == table


def _emptied(item: NftSet) -> NftSet:
    return replace(item, elements={})


def _size(table: NftTable) -> int:
    return sum(len(item.elements) for item in table.sets)


def _unless_absent(finish: Callable[[], str]) -> str | None:
    try:
        return finish()
    except ToolFailed as error:
        if error.absent:
            return None
        raise
