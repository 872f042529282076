"""The compiled policy as values: few rules over large sets, with the meaning of the lines taken one by one."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.policy.ranges import Span
from egress_router.policy.values import Decision, Ports


@dataclass(frozen=True, slots=True)
class AddressLine:
    """What one line claimed: its number (0: always closed) and its ranges."""

    number: int
    ranges: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the compiled policy; exactly one of names, addresses and everything says whom it matches.

    ``names``: sorted, a leading dot means the domain and everything under it. ``addresses``: any address of the
    host is in one of them; an allowing rule also needs that none is in ``outside``.
    """

    level: int
    decision: Decision
    ports: Ports
    names: tuple[str, ...] = ()
    addresses: tuple[AddressLine, ...] = ()
    outside: tuple[Span, ...] = ()
    everything: bool = False
    numbers: tuple[int, ...] = ()
    #: The addresses are IPv6 ones that carry an IPv4 address which the same level denies.
    embedded: bool = False

    def ranges(self) -> list[tuple[Span, int]]:
        """Return the ranges of addresses in their order, each with the number of its line."""
        return sorted((span, line.number) for line in self.addresses for span in line.ranges)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """The rules in order; what no rule matches is denied.

    ``allowed_names``: every name that some rule allows, at whatever port, when no rule allows by address or
    everything; a host that is not among them can be denied at once, without asking DNS about it. None otherwise.
    ``isatap``: addresses of ISATAP that lines open; all others are closed.
    """

    rules: tuple[Rule, ...]
    allowed_names: tuple[str, ...] | None
    isatap: tuple[Span, ...] = ()
