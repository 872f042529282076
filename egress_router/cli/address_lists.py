"""Lists in options: with commas, with spaces, or the option several times."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.egressip.api import address_key, address_text, length_hint
from egress_router.errors import UsageError


def words(texts: Iterable[str]) -> list[str]:
    """Return the entries."""
    return [word for text in texts for word in text.replace(",", " ").split()]


def addresses(option: str, texts: Iterable[str], expected: str) -> list[str]:
    """Return the entries, addresses of machines, as they are written. Raises UsageError; ``expected`` says what they
    should be.
    """
    found = words(texts)
    bad = [word for word in found if address_key(word) is None]
    if bad:
        raise UsageError(f"{option}: not {expected}: {', '.join(bad)}{length_hint(bad[0])}")
    return found


def canonical_addresses(option: str, texts: Iterable[str], expected: str) -> list[str]:
    """Return the same, each in its canonical form."""
    return [address_text(key) for word in addresses(option, texts, expected) if (key := address_key(word)) is not None]
