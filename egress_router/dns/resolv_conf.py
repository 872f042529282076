"""resolv.conf(5): name servers, and which DNS names a host name stands for (the search list). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.values import Address, HostName


def nameservers(text: str) -> tuple[Address, ...]:
    """Return the addresses of the ``nameserver`` lines in order. Those that are none are passed over, as libc does, and
    so are those that no route leads to (loopback, ``0.0.0.0``, multicast).
    """
    found: list[Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            value = fields.address(words[1].partition("%")[0])
            if not isinstance(value, Invalid) and not fields.not_a_host(value) and value not in found:
                found.append(value)
    return tuple(found)


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
