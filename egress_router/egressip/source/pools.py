"""Which address of a pool an EgressIP is given next, and how many are left. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from egress_router.egressip.api import address_key, address_text, family, host_range
from egress_router.egressip.source.api_objects import EgressIP, EgressIPPool
from egress_router.egressip.source.groups import ApiObjects

#: So many addresses in a row are looked at, besides those that somebody has, for one that a node can hold.
MOST_LOOKED_AT = 1 << 16
#: More addresses than this are shown as this: a number of 32 bits, see the schema.
MOST_SHOWN = (1 << 31) - 1


@dataclass(slots=True)
class Pools:
    """The pools by name, and every address that somebody has: keys, see address_key."""

    by_name: dict[str, EgressIPPool] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    #: Subnets of the nodes' interfaces, as far as nodes tell.
    subnets: tuple[str, ...] = ()
    #: Pools, and the family of which they had no free address; nothing is given back here.
    _full: set[tuple[str, int]] = field(default_factory=set)

    def missing(self, value: EgressIP) -> list[int]:
        """Return the family (4, 6) of each address that an EgressIP is to be given still."""
        pool = self.by_name.get(value.pool)
        if pool is None:
            return []
        have = [family(key) for text in value.egress_ips if (key := address_key(text)) is not None]
        return [
            version
            for version in sorted({family(first) for first, _ in pool.ranges})
            for _ in range(value.pool_addresses - have.count(version))
        ]

    def choose(self, value: EgressIP, version: int, preferred: Iterable[str] = ()) -> str | None:
        """Return the address to be given next; None when no address of the family is free. ``preferred`` come first:
        what the object had before. Then those that fit an interface of some node.
        """
        if (value.pool, version) in self._full:
            return None
        pool = self.by_name[value.pool]
        ranges = [span for span in pool.ranges if family(span[0]) == version]
        for text in preferred:
            key = address_key(text)
            if key is not None and self._is_free(key) and any(first <= key <= last for first, last in ranges):
                return address_text(key)
        for spans in (self._fitting(ranges), ranges):
            for looked, key in enumerate(in_order_of(value.name, spans)):
                if self._is_free(key):
                    return address_text(key)
                if looked >= MOST_LOOKED_AT + len(self.taken):
                    break
        self._full.add((value.pool, version))
        return None

    def _fitting(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the parts of the ranges that nodes' interfaces can hold, as far as nodes tell."""
        hosts = [span for text in self.subnets if (span := host_range(text)) is not None]
        both = [(max(a, c), min(b, d)) for a, b in ranges for c, d in hosts]
        return [(first, last) for first, last in both if first <= last]

    def _is_free(self, key: int) -> bool:
        return key not in self.taken and address_key(address_text(key)) is not None

    def usage(self, pool: EgressIPPool, version: int | None = None) -> tuple[int, int]:
        """Return (addresses, those of them that somebody has), of a family or of both."""
        ranges = [span for span in distinct(pool.ranges) if version in (None, family(span[0]))]
        total = sum(last - first + 1 for first, last in ranges)
        used = sum(1 for key in self.taken if any(first <= key <= last for first, last in ranges))
        return total, used


def pools_of(objects: ApiObjects) -> Pools:
    """Return the pools, with all that EgressIPs, assignments and nodes have taken."""
    texts: list[str] = [ip for value in objects.egress_ips.values() for ip in value.egress_ips]
    texts += [entry.egress_ip for entry in objects.assignments.values()]
    for node in objects.egress_nodes.values():
        texts += [*node.egress_ips, *node.host_ips]
    taken = {key for text in texts if (key := address_key(text)) is not None}
    subnets = {text for node in objects.egress_nodes.values() for text in node.interface_subnets}
    return Pools({pool.name: pool for pool in objects.pools.values()}, taken, tuple(sorted(subnets)))


def distinct(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges that hold the same keys, without overlaps, in order."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1 and family(first) == family(found[-1][0]):
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def in_order_of(name: str, ranges: Collection[tuple[int, int]]) -> Iterator[int]:
    """Yield every key of the ranges once, from a place on that the name decides: an object that is made again is likely
    to get the address that it had, and another one not the address that has just become free.
    """
    spans = distinct(ranges)
    total = sum(last - first + 1 for first, last in spans)
    start = int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) % total if total else 0
    before = 0
    for skip, take in ((start, total - start), (0, start)):
        before = skip
        left = take
        for first, last in spans:
            size = last - first + 1
            if before >= size:
                before -= size
                continue
            for key in range(first + before, min(last, first + before + left - 1) + 1):
                yield key
                left -= 1
            before = 0
            if left <= 0:
                break


def shown(number: int) -> int:
    """Return a number as the schema can hold it."""
    return min(number, MOST_SHOWN)
