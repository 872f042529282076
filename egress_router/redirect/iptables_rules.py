"""Translation → our part of the iptables tables of one family, and as text. See iptables-extensions(8),
iptables-save(8).

Each rule with a name has a chain of its own in nat, so that another answer changes one chain and no counter::

    -A EGRESSR-PREROUTING -p tcp -m tcp --dport 443 -g EGRESSR-to-tcp-443
    -A EGRESSR-to-tcp-443 -j CONNMARK --set-xmark MARK/0xffffffff
    -A EGRESSR-to-tcp-443 -p tcp -m statistic --mode random --probability 0.5 -m tcp --dport 443 -j DNAT …
    -A EGRESSR-to-tcp-443 -p tcp -m tcp --dport 443 -j DNAT …
    -A EGRESSR-to-tcp-443 -p tcp -m tcp --dport 443 -j ACCEPT

What finds no address is accepted as it is (iptables refuses DROP in nat) and reaches the pod itself, where
``EGRESSR-LATE`` of filter drops it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import collapse_addresses

from egress_router.config.values import Address, Family, PortRange, Protocol, host_network
from egress_router.net.iptables.rules import IptMatch, IptRule, IptTable
from egress_router.records import replace
from egress_router.redirect.network_state import CLUSTER_MARK
from egress_router.redirect.pair.values import GROUP, PROTOCOL_NUMBER
from egress_router.redirect.port_tree import PortRule, port_tree
from egress_router.redirect.values import NamedFallback, NamedRedirect, Redirect, Spread, Translation

#: Chains of ours have names that start so; nobody else's are touched.
PREFIX = "EGRESSR-"

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
        found += _own_ports(translation)
        found += [IptRule("DROP", protocol=str(protocol), matches=(_NEW,)) for protocol in Protocol]
    return tuple(found)


def _own_ports(translation: Translation) -> tuple[IptRule, ...]:
    """Let pass what is for the router itself: no fallback claims it."""
    if translation.health_port is None:
        return _election(translation)
    port = PortRange(translation.health_port, translation.health_port)
    return (IptRule("RETURN", protocol="tcp", matches=(ports_match(Protocol.TCP, port),)), *_election(translation))


def _election(translation: Translation) -> tuple[IptRule, ...]:
    """Let pass what the pods of a pair send each other to elect: wherever they are, the name servers say so."""
    if translation.pair_port is None:
        return ()
    port = PortRange(translation.pair_port, translation.pair_port)
    return (IptRule("RETURN", protocol="udp", matches=(ports_match(Protocol.UDP, port),)),)


_ICMP = {Family.IPV4: "icmp", Family.IPV6: "icmpv6"}
_REJECT = {Family.IPV4: "icmp-admin-prohibited", Family.IPV6: "icmp6-adm-prohibited"}
#: Multicast, broadcast and link-local: neighbour discovery and its kin stay on the link.
_LINK_SCOPE = {Family.IPV4: ("224.0.0.0/4", "255.255.255.255/32"), Family.IPV6: ("fe80::/10", "ff00::/8")}
_ORIGINAL = IptMatch("conntrack", (("ctstate", "DNAT"), ("ctdir", "ORIGINAL")))
_REPLY = IptMatch("conntrack", (("ctstate", "DNAT"), ("ctdir", "REPLY")))
#: An ICMP error about a packet of the client: in OUTPUT a new mark makes the kernel look again for the way.
_ERROR = IptMatch("conntrack", (("ctstate", "RELATED"), ("ctdir", "REPLY")))
_KNOWN = IptMatch("conntrack", (("ctstate", "RELATED,ESTABLISHED"),))


def iptables_tables(translation: Translation, family: Family) -> tuple[IptTable, ...]:
    """Return the tables in the order in which they are committed: what forbids first, what translates last."""
    return (_filter(translation, family), _mangle(translation, family), _nat(translation, family))


def _redirects(translation: Translation, family: Family) -> dict[Protocol, list[Redirect | NamedRedirect]]:
    found: dict[Protocol, list[Redirect | NamedRedirect]] = {}
    if family in translation.sources:
        for rule in translation.rules.claims:
            if isinstance(rule, NamedRedirect) or rule.family == family:
                found.setdefault(rule.protocol, []).append(rule)
    return found


def _fallback(translation: Translation, family: Family) -> list[IptRule]:
    """Return what is done with the ports that no line claims, a rule for each protocol; [] when nothing is."""
    if family not in translation.sources:
        return []
    named = translation.rules.named_fallback
    if named is not None:
        return [IptRule(name_chain(named), protocol=str(item), goto=True, line=named.line) for item in Protocol]
    return [
        IptRule("DNAT", (("to-destination", str(fallback.address)),), protocol=str(item), line=fallback.line)
        for fallback in translation.rules.fallbacks
        if fallback.family == family
        for item in Protocol
    ]


def _forwards(translation: Translation, family: Family) -> bool:
    return bool(_redirects(translation, family) or _fallback(translation, family))


def _original_ports(ports: PortRange) -> IptMatch:
    return IptMatch("conntrack", (("ctorigdstport", f"{ports.first}:{ports.last}"),))


def _nat(translation: Translation, family: Family) -> IptTable:
    if family not in translation.sources:
        return IptTable("nat", {}, ())
    chains: dict[str, tuple[IptRule, ...]] = {}
    top: list[IptRule] = []
    for protocol, rules in _redirects(translation, family).items():
        name = str(protocol)

        def branch(ports: PortRange, chain: str, protocol: Protocol = protocol) -> IptRule:
            return IptRule(chain, protocol=str(protocol), matches=(ports_match(protocol, ports),))

        leaves = [PortRule(rule.ports, _dnat(rule)) for rule in rules]
        first, below = port_tree(leaves, f"{PREFIX}{name}", branch)
        chains |= below
        top += first
    fallback = _fallback(translation, family)
    if fallback:
        top += _own_ports(translation)
        top += fallback
    spreads = list(translation.spreads(family))
    chains |= {name_chain(spread.rule): spread_rules(spread) for spread in spreads}
    source = str(translation.sources[family])
    hooks = []
    if top:
        chains[f"{PREFIX}PREROUTING"] = tuple(top)
    if top and translation.accepting and translation.holds:
        hooks = [
            (
                "PREROUTING",
                IptRule(
                    f"{PREFIX}PREROUTING",
                    destination=str(host_network(address)),
                    in_interface=translation.cluster,
                ),
            )
            for address in translation.pod_addresses[family]
        ]
    # Connection tracking sees a connection in adverts, too.
    adverts = _adverts_out(translation, family)
    chains[f"{PREFIX}POSTROUTING"] = (*adverts, IptRule("SNAT", (("to-source", source),)))
    hooks.append(("POSTROUTING", IptRule(f"{PREFIX}POSTROUTING", out_interface=translation.egress)))
    unknown = frozenset(name_chain(spread.rule) for spread in spreads) if translation.answers is None else frozenset()
    return IptTable("nat", chains, tuple(hooks), unknown)


def _dnat(rule: Redirect | NamedRedirect) -> IptRule:
    protocol, matches = str(rule.protocol), (ports_match(rule.protocol, rule.ports),)
    if isinstance(rule, NamedRedirect):
        return IptRule(name_chain(rule), protocol=protocol, matches=matches, goto=True, line=rule.line)
    options = dnat_target(rule.address, rule.ports, rule.to_ports)
    return IptRule("DNAT", options, protocol=protocol, matches=matches, line=rule.line)


def _mangle(translation: Translation, family: Family) -> IptTable:
    """Clamp the MSS to the path, both ways, and count by line. Counting rules return to where the counting began."""
    chains: dict[str, tuple[IptRule, ...]] = {f"{PREFIX}POSTROUTING": _translated(translation, family)}
    guard = ("POSTROUTING", IptRule(f"{PREFIX}POSTROUTING", out_interface=translation.egress))
    if not _forwards(translation, family):
        return IptTable("mangle", chains, (guard,))
    top: list[IptRule] = []
    for protocol, rules in _redirects(translation, family).items():
        name = str(protocol)

        def branch(ports: PortRange, chain: str, name: str = name) -> IptRule:
            return IptRule(chain, protocol=name, matches=(_original_ports(ports),), goto=True)

        leaves = [
            PortRule(
                rule.ports, IptRule("RETURN", protocol=name, matches=(_original_ports(rule.ports),), line=rule.line)
            )
            for rule in rules
        ]
        first, below = port_tree(leaves, f"{PREFIX}{name}", branch)
        chains |= below
        top += first
    syn = IptMatch("tcp", (("tcp-flags", "SYN,RST SYN"),))
    out, back = translation.egress, translation.cluster
    clamp = [
        IptRule("TCPMSS", (("clamp-mss-to-pmtu", ""),), protocol="tcp", out_interface=name, matches=(syn,))
        for name in (out, back)
    ]
    chains[f"{PREFIX}COUNT"] = tuple(top)
    chains[f"{PREFIX}FORWARD"] = (
        *clamp,
        IptRule(f"{PREFIX}COUNT", in_interface=back, out_interface=out, matches=(_ORIGINAL,), line=0),
        IptRule(f"{PREFIX}COUNT", in_interface=out, out_interface=back, matches=(_REPLY,), line=0),
    )
    chains[f"{PREFIX}OUTPUT"] = (IptRule("MARK", (("set-xmark", f"{CLUSTER_MARK:#x}/0xffffffff"),), matches=(_ERROR,)),)
    hooks = (
        ("FORWARD", IptRule(f"{PREFIX}FORWARD")),
        ("OUTPUT", IptRule(f"{PREFIX}OUTPUT", out_interface=out)),
        guard,
    )
    return IptTable("mangle", chains, hooks)


def _translated(translation: Translation, family: Family) -> tuple[IptRule, ...]:
    """Drop what the translation, which comes next, would give another source than ours: replies (of ours, ICMP errors
    to clients), and connections that were translated before the source changed.
    """
    source = translation.sources.get(family)
    adverts = _adverts_out(translation, family)
    if not translation.holds:
        return (*adverts, IptRule("DROP"))
    rules = [*adverts, IptRule("DROP", matches=(IptMatch("conntrack", (("ctdir", "REPLY"),)),))]
    if source is not None:
        stale = (("ctstatus", "CONFIRMED"), ("ctrepldst", f"!{source}"))
        rules.append(IptRule("DROP", matches=(IptMatch("conntrack", stale),)))
    return tuple(rules)


def _filter(translation: Translation, family: Family) -> IptTable:
    out, back = translation.egress, translation.cluster
    accept = (
        IptRule("ACCEPT", in_interface=back, out_interface=out, matches=(_ORIGINAL,)),
        IptRule("ACCEPT", in_interface=out, out_interface=back, matches=(_REPLY,)),
    )
    chains = {
        f"{PREFIX}FORWARD": (*(accept if _forwards(translation, family) else ()), IptRule("DROP")),
        f"{PREFIX}INPUT": (
            *(IptRule("RETURN", in_interface=name) for name in ("lo", back)),
            *_heard_adverts(translation, family),
            *_input(family),
        ),
        f"{PREFIX}OUTPUT": _output(translation, family),
        f"{PREFIX}GUARD": (
            *(IptRule("RETURN", out_interface=name) for name in ("lo", back)),
            *_sent_adverts(translation, family),
            *_errors_of_nothing(family),
            *_guard(translation, family),
        ),
    }
    # What is neither the loopback nor the cluster interface leads outside, whatever it is called by now.
    hooks: tuple[tuple[str, IptRule], ...] = (
        ("FORWARD", IptRule(f"{PREFIX}FORWARD")),
        ("INPUT", IptRule(f"{PREFIX}INPUT")),
        ("OUTPUT", IptRule(f"{PREFIX}OUTPUT", out_interface=back)),
        ("OUTPUT", IptRule(f"{PREFIX}GUARD")),
    )
    if _forwards(translation, family):
        # A client's packet that belongs to no connection (late, or outside of the window) is not translated and so
        # reaches the pod itself, whose reset would end the connection that it came from.
        late = IptRule("DROP", matches=(_INVALID,))
        chains[f"{PREFIX}LATE"] = (late, *unanswered(translation, family))
        hooks = (*hooks, ("INPUT", IptRule(f"{PREFIX}LATE", in_interface=back)))
    return IptTable("filter", chains, hooks)


#: ICMP errors (RFC 792, RFC 4443): unreachable, too big, time exceeded, parameter problem.
_ERROR_TYPES = {Family.IPV4: ("3", "11", "12"), Family.IPV6: ("1", "2", "3", "4")}
_INVALID = IptMatch("conntrack", (("ctstate", "INVALID"),))


def _errors_of_nothing(family: Family) -> tuple[IptRule, ...]:
    """Drop errors of the pod about a packet that belongs to no connection: they are for whoever its source names, true
    or not.
    """
    rules = (_icmp(family, type_, "DROP") for type_ in _ERROR_TYPES[family])
    return tuple(replace(rule, matches=(_INVALID, *rule.matches)) for rule in rules)


def _icmp(family: Family, type_: str, target: str, source: str | None = None) -> IptRule:
    name, option = ("icmp", "icmp-type") if family is Family.IPV4 else ("icmp6", "icmpv6-type")
    return IptRule(target, protocol=_ICMP[family], source=source, matches=(IptMatch(name, ((option, type_),)),))


def _input(family: Family) -> tuple[IptRule, ...]:
    """Nothing new comes in from outside. Neighbour discovery (135, 136) is not tracked and has its own line."""
    known = IptRule("RETURN", matches=(_KNOWN,))
    if family is Family.IPV4:
        return (_icmp(family, "5", "DROP"), known, IptRule("DROP"))
    return (known, _icmp(family, "135", "RETURN"), _icmp(family, "136", "RETURN"), IptRule("DROP"))


def _output(translation: Translation, family: Family) -> tuple[IptRule, ...]:
    """What the pod itself opens through the cluster interface goes to the cluster's own prefixes only."""
    replies = IptRule("RETURN", matches=(IptMatch("conntrack", (("ctdir", "REPLY"),)),))
    prefixes = [str(item) for item in collapse_addresses(translation.cluster_prefixes.get(family, ()))]  # type: ignore[type-var]
    allowed = [IptRule("RETURN", destination=item) for item in (*prefixes, *_LINK_SCOPE[family])]
    return (replies, *_election(translation), *allowed, IptRule("REJECT", (("reject-with", _REJECT[family]),)))


def _guard(translation: Translation, family: Family) -> tuple[IptRule, ...]:
    """Nothing leaves for the outside with another source. Forwarded packets are translated in one step with
    their destination, so what the pod itself sends is what is left to look at.
    """
    source = translation.sources.get(family)
    if source is None or not translation.holds:
        return (IptRule("DROP"),)
    wrong = IptRule("DROP", source=f"!{host_network(source)}")
    if family is Family.IPV4:
        return (wrong,)
    # Multicast listener reports carry no address while there is no link-local one (RFC 3810, 5.2.13).
    return (_icmp(family, "143", "RETURN", source="::/128"), wrong)


def _sent_adverts(translation: Translation, family: Family) -> tuple[IptRule, ...]:
    """Let the adverts of a pair out, as they are."""
    if translation.adverts is None or family is not Family.IPV4:
        return ()
    rule = IptRule(
        "RETURN",
        protocol=str(PROTOCOL_NUMBER),
        source=str(translation.adverts),
        destination=str(host_network(GROUP)),
        out_interface=translation.adverts_by,
    )
    return (rule,)


def _adverts_out(translation: Translation, family: Family) -> tuple[IptRule, ...]:
    """Let them out by the egress interface, where they go by that."""
    return () if translation.adverts_by else _sent_adverts(translation, family)


def _heard_adverts(translation: Translation, family: Family) -> tuple[IptRule, ...]:
    return tuple(
        replace(rule, source=None, out_interface=None, in_interface=translation.adverts_by)
        for rule in _sent_adverts(translation, family)
    )


def iptables_text(tables: Iterable[IptTable]) -> str:
    """Return the tables for ``iptables-restore --noflush``; ours stand first in the built-in chains."""
    lines: list[str] = []
    for table in tables:
        if not table.chains:
            continue
        lines.append(f"*{table.name}")
        lines += [f":{name} - [0:0]" for name in table.chains]
        for chain, rules in table.chains.items():
            lines += [f"-A {chain} {rule}" for rule in rules]
        counts: dict[str, int] = {}
        for chain, rule in table.hooks:
            counts[chain] = counts.get(chain, 0) + 1
            lines.append(f"-I {chain} {counts[chain]} {rule}")
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)
