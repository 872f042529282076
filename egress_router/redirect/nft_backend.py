"""The nftables backend: one table of our own; a process that stays leaves the memory of large tables to a child."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from egress_router.config.values import HostName
from egress_router.errors import StateMismatch, ToolFailed
from egress_router.net import process as forked
from egress_router.net.netlink import NetlinkError
from egress_router.net.nft.elements import NftSocket, known_types
from egress_router.net.nft.values import NftTable, SetChange
from egress_router.net.process import run_tool, start_tool
from egress_router.redirect.nft_names import Counted, answer_chain, by_line, chain_counters, without_answers
from egress_router.redirect.nft_rules import TABLE, nft_table
from egress_router.redirect.nft_script import (
    chain_changes,
    change_script,
    element_changes,
    fill_chain,
    parse_table,
    replace_script,
    rule_counters,
    table_text,
    without_elements,
)
from egress_router.redirect.values import Counters, Translation

# The nftables backend: one table of our own, by nft(8).

#: Something else in the namespace may change nftables at the same time.
ATTEMPTS = 10
#: So many elements and more take nft longer than a transaction of their own does.
_MANY = 500


class Nftables:
    """Implements ``NatBackend`` with the table ``inet egress_router``.

    ``found`` remembers at which generation of the kernel's rules the table was found to be that of which translation:
    while that is the generation, nobody has changed anything, and there is nothing to read.
    """

    name = "nftables"

    def __init__(self) -> None:
        self.found: tuple[int, Translation] | None = None

    def apply(self, desired: Translation) -> bool:
        """See NatBackend. Where only elements differ only elements change; else the table is replaced as a whole."""
        return self._put(desired)[0]

    def mend(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        changed, before = self._put(desired)
        return _difference(nft_table(desired), before) if changed else []

    def readdress(self, desired: Translation, names: Collection[HostName]) -> None:
        """See NatBackend."""
        spreads = (spread for family in desired.sources for spread in desired.spreads(family))
        chains = [answer_chain(spread) for spread in spreads if spread.rule.name in names]
        if not chains:
            return
        run_tool(["nft", "-f", "-"], "".join(f"{line}\n" for chain in chains for line in fill_chain(TABLE, chain)))
        if self.found is None:
            return
        with NftSocket(_NAME) as nft:
            generation = nft.generation()
        # One more than before: nobody else has changed anything.
        self.found = (generation, desired) if generation == self.found[0] + 1 else None

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        if self.holds(desired):
            return []
        table, actual = nft_table(desired), read_table()
        if desired.answers is None and actual is not None:
            table, actual = without_answers(table), without_answers(actual)
        return _difference(table, actual)

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        listing = _listing("-t")
        if listing is None:
            return {}
        return by_line(desired, chain_counters(listing) | _element_counters(parse_table(listing)))

    def remove(self) -> None:
        """See NatBackend."""
        run_tool(["nft", "-f", "-"], f"add table {TABLE}\ndelete table {TABLE}\n")

    def holds(self, desired: Translation) -> bool:
        """Whether it is known, without reading the table, that the kernel does ``desired``. Raises PlatformError."""
        if self.found is None or self.found[1] != desired:
            return False
        with NftSocket(_NAME) as nft:
            return nft.generation() == self.found[0]

    def _put(self, desired: Translation) -> tuple[bool, NftTable | None]:
        """Make the kernel do ``desired``; return whether anything had to change, and what was there before.

        Raises ToolFailed, NetlinkError, StateMismatch.
        """
        if self.holds(desired):
            return False, None
        table = nft_table(desired)
        with NftSocket(_NAME) as nft:
            for _ in range(ATTEMPTS):
                generation, actual = self._present(nft)
                try:
                    if table != actual:
                        generation = _write(nft, table, actual, generation)
                except NetlinkError as error:
                    if error.code == errno.ERESTART:
                        continue
                    raise
                self.found = (generation, desired)
                return table != actual, actual
        raise StateMismatch(_BUSY)

    def _present(self, nft: NftSocket) -> tuple[int, NftTable | None]:
        """Return the generation and what the table is at it; read where it is not known."""
        if self.found is not None and self.found[0] == nft.generation():
            return self.found[0], nft_table(self.found[1])
        return _read(nft)


_NAME = TABLE.split()[1]
_BUSY = "the nftables rules of this pod keep changing; something else writes them all the time"


def _write(nft: NftSocket, table: NftTable, actual: NftTable | None, generation: int) -> int:
    """Turn ``actual``, which is there at ``generation``, into ``table``; return the generation at which it was read
    back. Raises ToolFailed, StateMismatch, NetlinkError (ERESTART: somebody else was faster).
    """
    if actual is None and sum(len(item.elements) for item in table.sets) > _MANY:
        # Until its sets have elements the table lets nothing through.
        actual = without_elements(table)
        run_tool(["nft", "-f", "-"], replace_script(actual))
        generation = _read_back(nft, actual)
    changes = None if actual is None else element_changes(actual, table)
    if changes is None:
        counted = {} if actual is None else _counted(actual)
        run_tool(["nft", "-f", "-"], replace_script(table, counted))
        return _read_back(nft, table)
    chains = chain_changes(actual, table) if actual is not None else ((), ())
    if not any(chains) and all(known_types(change.item) for change in changes):
        nft.change(changes, generation)
        # Chains, sets and the elements of other sets are as they were while nobody else makes a generation.
        if nft.generation() == generation + 1 and _hold(nft, changes) and nft.generation() == generation + 1:
            return generation + 1
    else:
        run_tool(["nft", "-f", "-"], change_script(changes, TABLE, chains))
    return _read_back(nft, table)


def _hold(nft: NftSocket, changes: tuple[SetChange, ...]) -> bool:
    return all(nft.holds(change.item) for change in changes)


def _read_back(nft: NftSocket, table: NftTable) -> int:
    """Check that the kernel has ``table``; return the generation. Raises StateMismatch."""
    generation, actual = _read(nft, table)
    difference = _difference(table, actual)
    if difference:
        raise StateMismatch(
            "the nftables table that was read back is not the one that was loaded:\n" + "\n".join(difference)
        )
    return generation


def _read(nft: NftSocket, like: NftTable | None = None) -> tuple[int, NftTable | None]:
    """Return our table, and the generation at which it was like that. Raises PlatformError, StateMismatch."""
    for _ in range(ATTEMPTS):
        generation = nft.generation()
        table = read_table(like)
        if nft.generation() == generation:
            return generation, table
    raise StateMismatch(_BUSY)


def _listing(*options: str) -> str | None:
    """Return our table as nft lists it, None when there is none. Raises ToolFailed."""
    return _unless_absent(start_tool(["nft", *options, "list", "table", *TABLE.split()]))


def _unless_absent(finish: Callable[[], str]) -> str | None:
    try:
        return finish()
    except ToolFailed as error:
        if "No such file or directory" in error.stderr:
            return None
        raise


def read_table(like: NftTable | None = None) -> NftTable | None:
    """Return our table as it is in the kernel, None when there is none. Raises PlatformError.

    Chains and the sets' types are read with nft, elements by netlink: nft takes half a second for ten thousand. With a
    table that it should be ``like``, both are done at the same time.
    """
    finish = start_tool(["nft", "-s", "-t", "list", "table", *TABLE.split()])
    elements = _elements(like) if like is not None else None
    listing = _unless_absent(finish)
    if listing is None:
        return None
    table = parse_table(listing)
    if elements is None or like is None or [s.header for s in like.sets] != [s.header for s in table.sets]:
        elements = _elements(table)
    sets = tuple(
        replace(item, elements={key: value for key, (value, _) in elements[item.name].items()}) for item in table.sets
    )
    return replace(table, sets=sets)


def _elements(table: NftTable) -> dict[str, dict[str, tuple[str | None, tuple[int, int] | None]]]:
    with NftSocket(_NAME) as nft:
        return {item.name: nft.read(item) for item in table.sets}


def _counted(table: NftTable) -> Counted:
    """Return what every element and rule of ``table`` has counted, for the table that takes its place."""
    return rule_counters(_listing("-t") or "") | _element_counters(table)


def _element_counters(table: NftTable) -> Counted:
    return {
        (name, key): counted
        for name, elements in _elements(table).items()
        for key, (_, counted) in elements.items()
        if counted is not None
    }


def _difference(table: NftTable, actual: NftTable | None) -> list[str]:
    if actual == table:
        return []
    # Imported here: pods that start well never need it.
    import difflib

    wanted = table_text(_sorted(table)).splitlines()
    found = [] if actual is None else table_text(_sorted(actual)).splitlines()
    return list(difflib.unified_diff(_split(wanted), _split(found), "desired", "actual", lineterm="", n=1))


def _sorted(table: NftTable) -> NftTable:
    sets = tuple(replace(item, elements=dict(sorted(item.elements.items()))) for item in table.sets)
    return replace(table, sets=sets)


def _split(lines: list[str]) -> list[str]:
    """Give each element its own line, so that a diff shows the one that differs."""
    found: list[str] = []
    for line in lines:
        if "elements = {" in line:
            found += [f"\t\telement {part.strip()}" for part in line.strip()[len("elements = {") : -1].split(",")]
        else:
            found.append(line)
    return found


# The nftables backend for a process that stays: what large tables need of memory goes with a child.

#: Smaller ones are faster without a fork.
LARGE = 500


class ForkedNftables:
    """Implements ``NatBackend`` with nftables; what it does to more than LARGE rules is done in a child."""

    name = Nftables.name

    def __init__(self) -> None:
        self._backend = Nftables()

    def apply(self, desired: Translation) -> bool:
        """See NatBackend."""
        return bool(self._do("apply", desired))

    def mend(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return list(self._do("mend", desired))

    def readdress(self, desired: Translation, names: Collection[HostName]) -> None:
        """See NatBackend."""
        self._backend.readdress(desired, names)

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return list(self._do("drift", desired))

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        if not _is_large(desired):
            return self._backend.counters(desired)
        rows = forked.start(["nftables", "counters"], lambda: self._rows(desired)).result()
        return {line: Counters(*values) for line, *values in rows}

    def remove(self) -> None:
        """See NatBackend."""
        self._backend.remove()

    def _do(self, verb: str, desired: Translation) -> Any:
        work = getattr(self._backend, verb)
        if not _is_large(desired) or self._backend.holds(desired):
            return work(desired)
        before = self._backend.found

        def work_and_tell() -> tuple[Any, int | None]:
            result, found = work(desired), self._backend.found
            return result, None if found is None or found is before else found[0]

        result, generation = forked.start(["nftables", verb], work_and_tell).result()
        if generation is not None:
            self._backend.found = (generation, desired)
        return result

    def _rows(self, desired: Translation) -> list[tuple[int, int, int, int]]:
        found = self._backend.counters(desired).items()
        return [(line, item.connections, item.packets, item.bytes) for line, item in found]


def _is_large(desired: Translation) -> bool:
    return len(desired.rules.redirects) > LARGE
