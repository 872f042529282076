"""Which line of EGRESS_DESTINATION decides about a connection."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.config.values import Address, Family, HostName, Protocol
from egress_router.redirect.values import NamedRedirect, RouterConfig, Rule, Ruleset


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a connection to a port of the pod goes: ``rule`` None is refused, by no line. It goes to ``address``, or to
    one of those of ``name``.
    """

    family: Family
    protocol: Protocol
    port: int
    rule: Rule | None
    address: Address | None
    to_port: int
    name: HostName | None = None


def explain_redirect(rules: Ruleset, family: Family, protocol: Protocol, port: int) -> Decision:
    """Return what happens to a new connection to ``port`` of the pod's address of ``family``."""
    for rule in rules.claims:
        if rule.protocol != protocol or port not in rule.ports:
            continue
        to_port = port - rule.ports.first + rule.to_ports.first
        if isinstance(rule, NamedRedirect):
            return Decision(family, protocol, port, rule, None, to_port, rule.name)
        if rule.family == family:
            return Decision(family, protocol, port, rule, rule.address, to_port)
    if rules.named_fallback is not None:
        return Decision(family, protocol, port, rules.named_fallback, None, port, rules.named_fallback.name)
    for fallback in rules.fallbacks:
        if fallback.family == family:
            return Decision(family, protocol, port, fallback, fallback.address, port)
    return Decision(family, protocol, port, None, None, port)


def sentence(router: RouterConfig, decision: Decision) -> str:
    """Return the decision as a sentence for an operator."""
    what = f"{decision.family} {decision.protocol} port {decision.port}"
    if decision.rule is None:
        return f"{what}: no line claims it and there is no fallback: refused"
    source = router.sources[decision.family].ip
    gateway = router.gateways[decision.family]
    return (
        f'{what}: line {decision.rule.line} "{decision.rule}" sends it to {_where(decision)}, '
        f"leaving with {source} by {gateway}"
    )


def _where(decision: Decision) -> str:
    if decision.name is None:
        address = decision.address
        return f"[{address}]:{decision.to_port}" if decision.family is Family.IPV6 else f"{address}:{decision.to_port}"
    return (
        f"one of the {decision.family} addresses of {decision.name}, port {decision.to_port} (`egress-router run` asks "
        "the name servers of /etc/resolv.conf for them, again and again; dropped while there is none)"
    )
