"""Which DNS names a host name stands for: the search list of resolv.conf(5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from egress_router.model.names import HostName

#: RFC 1035: 253 characters without the root's dot.
MAX_NAME = 253


@dataclass(frozen=True, slots=True)
class SearchPath:
    """The ``search`` and ``options ndots:N`` lines of resolv.conf. Domains without a trailing dot."""

    domains: tuple[str, ...] = ()
    ndots: int = 1


def candidates(name: HostName, search: SearchPath) -> tuple[str, ...]:
    """Return the absolute names to ask for, in order, each with its trailing dot.

    As the C library does: a name with at least ``ndots`` dots is first tried as it is, any other name last; an
    absolute name is tried alone. Candidates that are too long for DNS are left out.
    """
    if name.absolute:
        return (name.text,)
    searched = [f"{name.text}.{domain}" for domain in search.domains if domain]
    ordered = [name.text, *searched] if name.dots >= search.ndots else [*searched, name.text]
    return tuple(dict.fromkeys(f"{item}." for item in ordered if len(item) <= MAX_NAME))


def search_domains(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the domains of a ``search`` line in canonical form; the root (a lone dot) adds nothing."""
    return tuple(dict.fromkeys(bare for text in texts if (bare := text.lower().strip(".")) and bare.isascii()))
