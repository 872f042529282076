"""Which line of EGRESS_DESTINATION decides about a connection."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.model.addresses import Address, Family
from egress_router.model.router import Fallback, Protocol, Redirect, Ruleset


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a connection to a port of the pod goes: ``rule`` None is refused, by no line."""

    family: Family
    protocol: Protocol
    port: int
    rule: Redirect | Fallback | None
    address: Address | None
    to_port: int


def explain_redirect(rules: Ruleset, family: Family, protocol: Protocol, port: int) -> Decision:
    """Return what happens to a new connection to ``port`` of the pod's address of ``family``."""
    for rule in rules.redirects:
        if rule.family == family and rule.protocol == protocol and port in rule.ports:
            to_port = port - rule.ports.first + rule.to_ports.first
            return Decision(family, protocol, port, rule, rule.address, to_port)
    for fallback in rules.fallbacks:
        if fallback.family == family:
            return Decision(family, protocol, port, fallback, fallback.address, port)
    return Decision(family, protocol, port, None, None, port)
