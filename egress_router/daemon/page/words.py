"""The filter of a page."""

from __future__ import annotations

from collections.abc import Callable


def fitting(words: str) -> Callable[..., bool]:
    """Return what tells whether each of the words occurs in one of some texts, whatever its case."""
    wanted = words.lower().split()

    def fits(*texts: str) -> bool:
        text = "\n".join(texts).lower()
        return all(word in text for word in wanted)

    return fits
