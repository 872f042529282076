"""Rules with names → iptables. Each has a chain of its own in nat, so that another answer changes one chain and no
counter::

    -A EGRESSR-PREROUTING -p tcp -m tcp --dport 443 -g EGRESSR-to-tcp-443
    -A EGRESSR-to-tcp-443 -j CONNMARK --set-xmark MARK/0xffffffff
    -A EGRESSR-to-tcp-443 -p tcp -m statistic --mode random --probability 0.5 -m tcp --dport 443 -j DNAT …
    -A EGRESSR-to-tcp-443 -p tcp -m tcp --dport 443 -j DNAT …
    -A EGRESSR-to-tcp-443 -p tcp -m tcp --dport 443 -j ACCEPT

What finds no address is accepted as it is (iptables refuses DROP in nat) and reaches the pod itself, where
``EGRESSR-LATE`` of filter drops it.
"""

from __future__ import annotations

from egress_router.model.addresses import Address, Family
from egress_router.model.iptables import PREFIX, IptMatch, IptRule
from egress_router.model.router import NamedFallback, NamedRedirect, PortRange, Protocol
from egress_router.model.translation import Spread, Translation

_NEW = IptMatch("conntrack", (("ctstate", "NEW"),))


def ports_match(protocol: Protocol, ports: PortRange) -> IptMatch:
    """Return the match for a packet's destination port."""
    text = str(ports.first) if len(ports) == 1 else f"{ports.first}:{ports.last}"
    return IptMatch(str(protocol), (("dport", text),))


def dnat_target(address: Address, ports: PortRange, to_ports: PortRange) -> tuple[tuple[str, str], ...]:
    """Return the options of DNAT. A range keeps its offsets: ``ADDRESS:FIRST-LAST/BASE`` (Linux 4.18)."""
    host = f"[{address}]" if address.version == 6 else str(address)
    if ports == to_ports:
        to = str(address)
    elif len(ports) == 1:
        to = f"{host}:{to_ports}"
    else:
        to = f"{host}:{to_ports}/{ports.first}"
    return (("to-destination", to),)


def name_chain(rule: NamedRedirect | NamedFallback) -> str:
    """Return the name of the chain that a rule's connections go to."""
    what = f"{rule.protocol}-{rule.ports.first}" if isinstance(rule, NamedRedirect) else "any"
    return f"{PREFIX}to-{what}"


def spread_rules(spread: Spread) -> tuple[IptRule, ...]:
    """Return the rules of that chain."""
    rule, count = spread.rule, len(spread.addresses)
    protocol: str | None = None
    matches: tuple[IptMatch, ...] = ()
    if isinstance(rule, NamedRedirect):
        protocol, matches = str(rule.protocol), (ports_match(rule.protocol, rule.ports),)
    found = []
    if count:
        found.append(IptRule("CONNMARK", (("set-xmark", f"{rule.name.mark:#x}/0xffffffff"),)))
    for number, address in enumerate(spread.addresses):
        left = count - number
        chance = (("mode", "random"), ("probability", f"{1 / left:.11f}"))
        choice = () if left == 1 else (IptMatch("statistic", chance),)
        if isinstance(rule, NamedRedirect):
            options = dnat_target(address, rule.ports, rule.to_ports)
        else:
            options = (("to-destination", str(address)),)
        found.append(IptRule("DNAT", options, protocol=protocol, matches=(*choice, *matches)))
    return (*found, IptRule("ACCEPT", protocol=protocol, matches=matches, line=rule.line))


def unanswered(translation: Translation, family: Family) -> tuple[IptRule, ...]:
    """Return the rules for filter INPUT that drop what a name without an address has let through."""
    found: list[IptRule] = []
    for spread in translation.spreads(family):
        rule = spread.rule
        if isinstance(rule, NamedRedirect):
            matches = (_NEW, ports_match(rule.protocol, rule.ports))
            found.append(IptRule("DROP", protocol=str(rule.protocol), matches=matches))
            continue
        if translation.health_port is not None:
            port = PortRange(translation.health_port, translation.health_port)
            found.append(IptRule("RETURN", protocol="tcp", matches=(ports_match(Protocol.TCP, port),)))
        found += [IptRule("DROP", protocol=str(protocol), matches=(_NEW,)) for protocol in Protocol]
    return tuple(found)
