"""The nftables backend: one table of our own, in which established connections go around the rules where they can."""

from __future__ import annotations

from collections.abc import Collection

from egress_router.config.values import HostName
from egress_router.daemon.log import LOGGER
from egress_router.errors import StateMismatch, ToolFailed
from egress_router.net.interfaces import interface_index
from egress_router.net.nft.kernel import Nft, NftKernel, Put
from egress_router.net.nft.listing import difference
from egress_router.net.nft.values import NftTable
from egress_router.redirect.nft_names import answer_chain, answer_chains, by_line, last_of_chains
from egress_router.redirect.nft_rules import TABLE, nft_table
from egress_router.redirect.offload import IDLE, OFF, Kernel
from egress_router.redirect.values import Counters, FlowOffload, Translation

#: Names and numbers.
Interfaces = tuple[tuple[str, int], ...]


class Nftables:
    """Implements ``NatBackend`` with the table ``inet egress_router``.

    ``found`` remembers at which generation of the kernel's rules, and with which interfaces in its flow table, the
    table was found to be that of which translation: while they are these, nobody has changed anything, and there is
    nothing to read. (An interface that goes leaves the flow table without a generation.)

    ``refused`` is what the kernel said about a table with a flow table that it did not take, and with which interfaces:
    offload is for speed, and never keeps the rules from being put in place.
    """

    name = "nftables"

    def __init__(self, nft: Nft | None = None, kernel: Kernel | None = None) -> None:
        self._nft = nft or NftKernel()
        self.kernel = kernel or Kernel()
        self.found: tuple[int, Translation, Interfaces] | None = None
        self.refused: tuple[Interfaces, str] | None = None

    def apply(self, desired: Translation) -> bool:
        """See NatBackend."""
        return not self.holds(desired) and self._put(desired)[1].changed

    def repair(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        if self.holds(desired):
            return []
        table, put = self._put(desired)
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
            known = generation == self.found[0] + 1
            self.found = (generation, desired, self.found[2]) if known else None

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        if self.holds(desired):
            return []
        table = nft_table(desired, offload=bool(self.offloading(desired)))
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

    def cannot_offload(self) -> str:
        """See NatBackend."""
        return self.kernel.why_not()

    def why_no_offload(self, desired: Translation) -> str:
        """See NatBackend."""
        if desired.offload is FlowOffload.OFF:
            return OFF
        if not desired.accepting or not desired.rules.all:
            return IDLE
        interfaces = _interfaces(desired)
        if not interfaces:
            return f"{desired.cluster} and {desired.egress} are not both there"
        if self.refused is not None and self.refused[0] == interfaces:
            return self.refused[1]
        return self.kernel.why_not()

    def offloading(self, desired: Translation) -> Interfaces:
        """Return the interfaces between which established connections go around the rules; none where they do not."""
        return () if self.why_no_offload(desired) else _interfaces(desired)

    def holds(self, desired: Translation) -> bool:
        """Whether it is known, without reading the table, that the kernel does ``desired``. Raises PlatformError."""
        if self.found is None or self.found[1] != desired or self._nft.generation() != self.found[0]:
            return False
        return self.found[2] == self.offloading(desired)

    def _put(self, desired: Translation) -> tuple[NftTable, Put]:
        """Put the table for ``desired`` in place; return it, and what was done."""
        known = None
        if self.found is not None:
            generation, before, offloading = self.found
            if not offloading or offloading == self.offloading(before):
                known = (generation, (nft_table(before, offload=bool(offloading)),))
        interfaces = self.offloading(desired)
        table = nft_table(desired, offload=bool(interfaces))
        try:
            put = self._nft.put([table], known=known)
        except (ToolFailed, StateMismatch) as error:
            if not interfaces:
                raise
            LOGGER.warning("the rules are put in place without a flow table: %s", error)
            self.refused = interfaces, f"the kernel refuses a table with a flow table: {error}"
            interfaces, table = (), nft_table(desired)
            put = self._nft.put([table], known=known)
        self.found = (put.generation, desired, interfaces)
        return table, put


def _interfaces(desired: Translation) -> Interfaces:
    """Return the interfaces that connections are forwarded between; none where one is not there. One that is made anew
    has another number.
    """
    found = [(name, interface_index(name)) for name in (desired.cluster, desired.egress)]
    return () if any(index == 0 for _, index in found) else tuple(found)
