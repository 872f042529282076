"""The nftables backend: one table of our own."""

from __future__ import annotations

from collections.abc import Collection

from egress_router.config.values import HostName
from egress_router.net.nft.kernel import Nft, NftKernel, Put
from egress_router.net.nft.listing import difference
from egress_router.net.nft.values import NftTable
from egress_router.redirect.nft_names import answer_chain, answer_chains, by_line, last_of_chains
from egress_router.redirect.nft_rules import TABLE, nft_table
from egress_router.redirect.values import Counters, Translation


class Nftables:
    """Implements ``NatBackend`` with the table ``inet egress_router``.

    ``found`` remembers at which generation of the kernel's rules the table was found to be that of which translation:
    while that is the generation, nobody has changed anything, and there is nothing to read.
    """

    name = "nftables"

    def __init__(self, nft: Nft | None = None) -> None:
        self._nft = nft or NftKernel()
        self.found: tuple[int, Translation] | None = None

    def apply(self, desired: Translation) -> bool:
        """See NatBackend."""
        return not self.holds(desired) and self._put(desired, nft_table(desired)).changed

    def repair(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        if self.holds(desired):
            return []
        table = nft_table(desired)
        put = self._put(desired, table)
        return difference(table, put.before[0]) if put.changed else []

    def update_targets(self, desired: Translation, names: Collection[HostName]) -> None:
        """See NatBackend."""
        spreads = (spread for family in desired.sources for spread in desired.spreads(family))
        chains = [answer_chain(spread) for spread in spreads if spread.rule.name in names]
        if not chains:
            return
        generation = self._nft.fill(TABLE, chains)
        if self.found is not None:
            # One more than before: nobody else has changed anything.
            self.found = (generation, desired) if generation == self.found[0] + 1 else None

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        if self.holds(desired):
            return []
        table = nft_table(desired)
        actual = self._nft.read(TABLE, table)
        if desired.answers is None and actual is not None:
            unknown = answer_chains(desired)
            table, actual = table.without_rules(unknown), actual.without_rules(unknown)
        return difference(table, actual)

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        counted = self._nft.counters(TABLE)
        return by_line(desired, last_of_chains(counted)) if counted else {}

    def remove(self) -> None:
        """See NatBackend."""
        self._nft.remove([TABLE])

    def holds(self, desired: Translation) -> bool:
        """Whether it is known, without reading the table, that the kernel does ``desired``. Raises PlatformError."""
        return self.found is not None and self.found[1] == desired and self._nft.generation() == self.found[0]

    def _put(self, desired: Translation, table: NftTable) -> Put:
        known = None if self.found is None else (self.found[0], (nft_table(self.found[1]),))
        put = self._nft.put([table], known=known)
        self.found = (put.generation, desired)
        return put
