"""nftables without a kernel, for tests of those who use it: tables are kept as values, and nothing is parsed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from egress_router.errors import StateMismatch, ToolFailed
from egress_router.net.nft.kernel import Counted, Put
from egress_router.net.nft.listing import difference
from egress_router.net.nft.script import element_changes
from egress_router.net.nft.values import NftChain, NftTable


class FakeNft:
    """Implements ``Nft``. ``tables`` may be changed as somebody else would, by ``tamper``; ``counted`` is what things
    have counted, by table; ``transactions`` says what was done, a line each.
    """

    def __init__(self) -> None:
        self.tables: dict[str, NftTable] = {}
        self.counted: dict[str, Counted] = {}
        self.transactions: list[str] = []
        self._generation = 1

    def tamper(self, table: NftTable | str) -> None:
        """Put a table in place, or remove one by its name, as somebody else does."""
        if isinstance(table, str):
            self.tables.pop(table, None)
        else:
            self.tables[table.name] = table
        self._generation += 1

    def generation(self) -> int:
        """See Nft."""
        return self._generation

    def read(self, name: str, like: NftTable | None = None) -> NftTable | None:
        """See Nft."""
        found = self.tables.get(name)
        return found if found is None or like is None else found.in_order_of(like)

    def put(
        self,
        tables: Sequence[NftTable],
        remove: Collection[str] = (),
        known: tuple[int, Sequence[NftTable]] | None = None,
    ) -> Put:
        """See Nft."""
        before = tuple(self.read(table.name, table) for table in tables)
        surplus = [name for name in remove if name in self.tables]
        if not surplus and not any(map(difference, tables, before)):
            return Put(False, before, self._generation)
        for table, old in zip(tables, before, strict=True):
            if old is None:
                self.counted.pop(table.name, None)
        self._store("put", tables, surplus)
        return Put(True, before, self._generation)

    def replace(self, tables: Sequence[NftTable], remove: Collection[str] = ()) -> int:
        """See Nft."""
        for table in tables:
            self.counted.pop(table.name, None)
        self._store("replace", tables, remove)
        return self._generation

    def change(self, old: Sequence[NftTable], new: Sequence[NftTable]) -> int:
        """See Nft."""
        if list(old) == list(new):
            return self._generation
        for before, after in zip(old, new, strict=True):
            if element_changes(before, after) is None:
                raise StateMismatch(f"the table {after.name} differs in more than elements")
            present = self.tables.get(before.name)
            if present is None or difference(before, present):
                raise ToolFailed(["nft", "-f", "-"], "exit status 1", f"{before.name} is not as it was left")
        self._store("change", new)
        return self._generation

    def fill(self, table: str, chains: Iterable[NftChain]) -> int:
        """See Nft."""
        present = self.tables.get(table)
        if present is None:
            raise ToolFailed(["nft", "-f", "-"], "exit status 1", f"there is no table {table}")
        rules = {chain.name: chain.rules for chain in chains}
        filled = (replace(chain, rules=rules.get(chain.name, chain.rules)) for chain in present.chains)
        self._store("fill", [replace(present, chains=tuple(filled))])
        return self._generation

    def difference(self, tables: Sequence[NftTable], absent: Collection[str] = ()) -> list[str]:
        """See Nft."""
        found = [line for table in tables for line in difference(table, self.tables.get(table.name))]
        return found + [f"+table {name}" for name in absent if name in self.tables]

    def counters(self, name: str) -> Counted:
        """See Nft."""
        table = self.tables.get(name)
        return {} if table is None else dict.fromkeys(_counting(table), (0, 0)) | self.counted.get(name, {})

    def totals(self, name: str) -> dict[str, int]:
        """See Nft."""
        table, counted = self.tables.get(name), self.counted.get(name, {})
        return {} if table is None else {own: counted.get((f"counter {own}", ""), (0, 0))[0] for own in table.counters}

    def remove(self, names: Collection[str]) -> None:
        """See Nft."""
        self._store("remove", (), names)

    def _store(self, what: str, tables: Iterable[NftTable], remove: Iterable[str] = ()) -> None:
        """Change everything at once."""
        names = []
        for name in remove:
            self.tables.pop(name, None)
            names.append(f"-{name}")
        for table in tables:
            # What times out was never here.
            sets = (replace(item, elements={} if item.timed else dict(item.elements)) for item in table.sets)
            self.tables[table.name] = replace(table, sets=tuple(sets))
            names.append(table.name)
        self.transactions.append(f"{what} {', '.join(names)}")
        self._generation += 1


def _counting(table: NftTable) -> Iterator[tuple[str, str]]:
    """Yield what counts in a table, as Counted names it."""
    yield from ((f"counter {name}", "") for name in table.counters)
    for item in table.sets:
        if "counter" in item.header:
            yield from ((item.name, key) for key in item.elements)
    for chain in table.chains:
        yield from ((f"chain {chain.name}", rule) for rule in chain.rules if "counter" in rule.split())
