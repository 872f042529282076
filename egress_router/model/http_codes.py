"""Which of many lines matched, from a few questions.

Squid can note which line of a rule matched only by asking about each. So each line has a code word, and Squid is asked
about each *bit*: does an address of the host lie in a line whose word has it? The answer is the words of all lines
that match, laid over each other. All words have equally many bits, so no word covers another (Sperner, 1928): one line
is always known, and several are never taken for another one.
"""

from __future__ import annotations

from itertools import combinations, islice
from math import comb


def width(count: int) -> int:
    """Return how many bits so many words need: 8 for 70 lines, 16 for 12,870, 19 for 92,378."""
    return next(bits for bits in range(1, 64) if comb(bits, bits // 2) >= count)


def words(count: int) -> list[frozenset[int]]:
    """Return a word for each of so many lines: the numbers of its bits."""
    bits = width(count)
    return [frozenset(word) for word in islice(combinations(range(bits), bits // 2), count)]
