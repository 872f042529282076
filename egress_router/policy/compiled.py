"""The compiled policy as values: few rules over large sets, with the meaning of the lines taken one by one."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.policy.clients import ROOT, Clients
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
    #: Whom it is for: None for everybody. ``branch``: whose lines it has, None for what is closed to these clients.
    clients: tuple[Span, ...] | None = None
    branch: int | None = ROOT

    def ranges(self) -> list[tuple[Span, int]]:
        """Return the ranges of addresses in their order, each with the number of its line."""
        return sorted((span, line.number) for line in self.addresses for span in line.ranges)


@dataclass(frozen=True, slots=True)
class NamesAlone:
    """Clients to whom no rule allows anything but names, and all names that some rule allows, at whatever port, a set
    for each branch. A host that is in no set can be denied at once, without asking DNS about it.
    """

    clients: tuple[Span, ...] | None
    names: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """The rules in order; what no rule matches is denied.

    ``isatap``: addresses of ISATAP that lines open to anybody; all others are closed.
    """

    rules: tuple[Rule, ...]
    names_alone: tuple[NamesAlone, ...]
    isatap: tuple[Span, ...]
    clients: Clients
