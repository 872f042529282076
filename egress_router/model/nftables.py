"""One nftables table as values: named sets and maps with their elements, and chains with their rules."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NftSet:
    """A named set or map. ``header`` is its ``type``/``flags``/``counter`` lines; ``elements`` maps key to value
    (None in a set), both in the words of nft(8).
    """

    kind: str
    name: str
    header: tuple[str, ...]
    elements: dict[str, str | None] = field(default_factory=dict)

    @property
    def interval(self) -> bool:
        """Whether its keys are ranges."""
        return "flags interval" in self.header


@dataclass(frozen=True, slots=True)
class SetChange:
    """Elements that leave and enter a set; one that gets another value does both. ``item`` is the set as it becomes."""

    item: NftSet
    removed: dict[str, str | None]
    added: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class NftChain:
    """A chain; ``hook`` is its ``type … hook …`` line, None for a chain that others jump to."""

    name: str
    hook: str | None
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table: what it is called (``inet egress_router``), its sets and its chains, in order."""

    name: str
    sets: tuple[NftSet, ...]
    chains: tuple[NftChain, ...]
