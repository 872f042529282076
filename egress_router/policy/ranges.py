"""Arithmetic on sets of 128-bit addresses, kept as sorted, disjoint ranges with both ends inside."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from egress_router.config.embedded_ipv4 import spellings
from egress_router.policy.values import MAPPED, Block


def embedding(ranges: Iterable[Span]) -> list[Span]:
    """Return the ranges of IPv6 addresses that carry an IPv4 address of some ranges."""
    inside = (
        (max(first, MAPPED) - MAPPED, min(last, MAPPED_LAST) - MAPPED)
        for first, last in ranges
        if first <= MAPPED_LAST and last >= MAPPED
    )
    return normal(span for first, last in inside for span in spellings(first, last))


Span = tuple[int, int]
TOP = (1 << 128) - 1
MAPPED_LAST = MAPPED + 0xFFFFFFFF


def spans(block: Block) -> list[Span]:
    """Return what a block means: a wide IPv6 network such as ``::/0`` leaves the IPv4 addresses out."""
    if block.first < MAPPED and block.last > MAPPED_LAST:
        return [(block.first, MAPPED - 1), (MAPPED_LAST + 1, block.last)]
    return [(block.first, block.last)]


def normal(ranges: Iterable[Span]) -> list[Span]:
    """Return the union of any ranges, sorted and joined where they touch (never across an edge of IPv4)."""
    joined: list[Span] = []
    for first, last in sorted(ranges):
        end = joined[-1][1] if joined else -2
        if first <= end or (first == end + 1 and first not in (MAPPED, MAPPED_LAST + 1)):
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def complement(ranges: Iterable[Span]) -> list[Span]:
    """Return all addresses that are in none of the ranges, split at the edges of IPv4."""
    gaps: list[Span] = []
    at = 0
    for first, last in normal(ranges):
        if at < first:
            gaps.append((at, first - 1))
        at = last + 1
    if at <= TOP:
        gaps.append((at, TOP))
    return split_families(gaps)


def split_families(ranges: Iterable[Span]) -> list[Span]:
    """Return the ranges cut so that none holds IPv4 and IPv6 addresses."""
    cut: list[Span] = []
    for first, last in ranges:
        for low, high in ((0, MAPPED - 1), (MAPPED, MAPPED_LAST), (MAPPED_LAST + 1, TOP)):
            a, b = max(first, low), min(last, high)
            if a <= b:
                cut.append((a, b))
    return cut


class Claims:
    """Who claimed which addresses first. ``claim`` gives a range what of it is still free."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def copy(self) -> Claims:
        """Return the same claims, to change on their own."""
        other = Claims()
        other._firsts, other._lasts = self._firsts.copy(), self._lasts.copy()
        return other

    def claim(self, wanted: Iterable[Span]) -> list[Span]:
        """Return the parts of ``wanted`` that nobody claimed before; they are claimed now."""
        got: list[Span] = []
        for first, last in wanted:
            low = bisect_left(self._lasts, first)
            high = bisect_right(self._firsts, last)
            at = first
            for taken_first, taken_last in zip(self._firsts[low:high], self._lasts[low:high], strict=True):
                if at < taken_first:
                    got.append((at, taken_first - 1))
                at = taken_last + 1
            if at <= last:
                got.append((at, last))
            self._merge(first, last, low, high)
        return got

    def _merge(self, first: int, last: int, low: int, high: int) -> None:
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]
