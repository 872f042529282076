"""The nftables backend of a process that stays: it leaves the memory of large tables to a child."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from egress_router.config.values import HostName
from egress_router.net import forked
from egress_router.redirect.nft_backend import Nftables
from egress_router.redirect.offload import Kernel
from egress_router.redirect.values import Counters, Translation

#: Smaller ones are faster without a fork.
LARGE = 500


class ForkedNftables:
    """Implements ``NatBackend`` with nftables; what it does to more than LARGE rules is done in a child."""

    name = Nftables.name

    def __init__(self, kernel: Kernel | None = None) -> None:
        """``kernel`` may have been asked already whether it has flow tables."""
        self._backend = Nftables(kernel=kernel)

    def apply(self, desired: Translation) -> bool:
        """See NatBackend."""
        return bool(self._do("apply", desired))

    def repair(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return list(self._do("repair", desired))

    def update_targets(self, desired: Translation, names: Collection[HostName]) -> None:
        """See NatBackend."""
        self._backend.update_targets(desired, names)

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

    def cannot_offload(self) -> str:
        """See NatBackend."""
        return self._backend.cannot_offload()

    def why_no_offload(self, desired: Translation) -> str:
        """See NatBackend."""
        return self._backend.why_no_offload(desired)

    def _do(self, verb: str, desired: Translation) -> Any:
        work = getattr(self._backend, verb)
        if not _is_large(desired) or self._backend.holds(desired):
            return work(desired)
        before = self._backend.found
        # Before the child does: what it is told is gone with it.
        interfaces = self._backend.offloading(desired)

        def work_and_tell() -> tuple[Any, int | None, str | None]:
            result, found, refused = work(desired), self._backend.found, self._backend.refused
            fresh = None if found is None or found is before else found[0]
            return result, fresh, None if refused is None or found is None or found[2] else refused[1]

        result, generation, refused = forked.start(["nftables", verb], work_and_tell).result()
        if refused is not None:
            self._backend.refused = interfaces, refused
        if generation is not None:
            self._backend.found = (generation, desired, () if refused is not None else interfaces)
        return result

    def _rows(self, desired: Translation) -> list[tuple[int, int, int, int]]:
        found = self._backend.counters(desired).items()
        return [(line, item.connections, item.packets, item.bytes) for line, item in found]


def _is_large(desired: Translation) -> bool:
    return len(desired.rules.redirects) > LARGE
