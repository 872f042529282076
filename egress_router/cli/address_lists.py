"""Lists in options: with commas, with spaces, or the option several times."""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.config import fields
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


def host_names(option: str, texts: Iterable[str]) -> list[str]:
    """Return the entries, names of hosts, in lower case and without a dot at the end. Raises UsageError."""
    found = []
    for word in words(texts):
        name = fields.host_name(word)
        if isinstance(name, fields.Invalid):
            raise UsageError(f"{option}: {name}; a name such as egress-ips.example.com, without a port")
        found.append(name.text.removesuffix("."))
    return found
