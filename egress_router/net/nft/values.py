"""An nftables table as values: sets and maps with their elements, chains with their rules, counters, flow tables. See
nft(8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from egress_router.records import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class NftSet:
    """A named set or map. ``header`` is its ``type``/``flags``/``counter`` lines; ``elements`` maps key to value
    (None in a set), both in the words of nft(8). ``comment`` is for readers and is not compared.
    """

    kind: str
    name: str
    header: tuple[str, ...]
    elements: dict[str, str | None] = field(default_factory=dict)
    comment: str = field(default="", compare=False)

    @property
    def interval(self) -> bool:
        """Whether its keys are ranges."""
        return "flags interval" in self.header

    @property
    def timed(self) -> bool:
        """Whether its elements go by themselves: they are neither compared nor changed with the rest of a table."""
        return "flags timeout" in self.header


@dataclass(frozen=True, slots=True)
class SetChange:
    """Elements that leave and enter a set; one that gets another value does both. ``item`` is the set as it becomes."""

    item: NftSet
    removed: dict[str, str | None]
    added: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class NftChain:
    """A chain; ``hook`` is its ``type … hook …`` line, None for a chain that others jump to.

    ``dynamic`` chains come, change and go together with the elements that lead to them; the others only with the
    table. ``comment`` is for readers; neither is compared.
    """

    name: str
    hook: str | None
    rules: tuple[str, ...] = ()
    comment: str = field(default="", compare=False)
    dynamic: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class NftFlowtable:
    """A flow table on the ingress of ``devices``, which are in the order of their names; ``options`` are its further
    lines, such as ``counter``. The kernel takes a device out of it when that goes away.
    """

    name: str
    devices: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table: what it is called (``inet egress_router``), its sets, its chains, its named counters and its flow
    tables, in order.
    """

    name: str
    sets: tuple[NftSet, ...]
    chains: tuple[NftChain, ...]
    counters: tuple[str, ...] = ()
    flowtables: tuple[NftFlowtable, ...] = ()

    def without_elements(self) -> NftTable:
        """Return the table with empty sets."""
        return replace(self, sets=tuple(replace(item, elements={}) for item in self.sets))

    def without_rules(self, chains: Iterable[str]) -> NftTable:
        """Return the table with nothing in ``chains``: what they hold is not known."""
        names = frozenset(chains)
        emptied = (replace(chain, rules=()) if chain.name in names else chain for chain in self.chains)
        return replace(self, chains=tuple(emptied))

    def in_order_of(self, like: NftTable) -> NftTable:
        """Return the table with its parts in the order of ``like``, others last and by name. nft lists parts in the
        order in which they were made, which says nothing.
        """
        return NftTable(
            self.name,
            _in_order(self.sets, like.sets),
            _in_order(self.chains, like.chains),
            tuple(sorted(self.counters, key=_rank(like.counters))),
            _in_order(self.flowtables, like.flowtables),
        )


_Part = TypeVar("_Part", NftSet, NftChain, NftFlowtable)


def _in_order(parts: tuple[_Part, ...], like: tuple[_Part, ...]) -> tuple[_Part, ...]:
    rank = _rank([part.name for part in like])
    return tuple(sorted(parts, key=lambda part: rank(part.name)))


def _rank(names: Iterable[str]) -> Callable[[str], tuple[int, str]]:
    places = {name: place for place, name in enumerate(names)}
    return lambda name: (places.get(name, len(places)), name)
