"""Translation → one nftables table. See nft(8).

Ports are looked up in maps, so a connection's cost does not grow with the number of rules. Every line is written as
nft lists it, so that what was read back can be compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import collapse_addresses
from typing import TypeVar

from egress_router.config.values import Address, Family, Protocol
from egress_router.net.nft.values import NftChain, NftFlowtable, NftSet, NftTable
from egress_router.records import replace
from egress_router.redirect.network_state import CLUSTER_MARK
from egress_router.redirect.nft_names import name_chain, named_chains, named_maps
from egress_router.redirect.pair.values import GROUP, PROTOCOL_NUMBER
from egress_router.redirect.values import Redirect, Translation

TABLE = "inet egress_router"
#: Its flow table, where there is one.
FLOW_TABLE = "established"
_Part = TypeVar("_Part", NftSet, NftChain)
WITH_PORTS = "meta l4proto { tcp, udp, sctp }"
_NFPROTO = {Family.IPV4: "ipv4", Family.IPV6: "ipv6"}
_IP = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_TYPE = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}


def nft_table(translation: Translation, *, offload: bool = False) -> NftTable:
    """Return the whole table for ``translation``; with ``offload``, for which both interfaces must be there,
    established connections go around its rules.
    """
    sets = [_cluster_set(translation, family) for family in Family]
    if translation.adverts is not None:
        sets += [_source_set(translation, family) for family in translation.sources]
    redirecting: list[NftChain] = []
    counting: list[NftChain] = []
    for family in Family:
        if family in translation.sources:
            own_sets, chains = _redirect(translation, family)
            sets += own_sets
            redirecting += chains[:1]
            counting += chains[1:]
    named = [chain for family in Family for spread in translation.spreads(family) for chain in named_chains(spread)]
    offload = offload and bool(redirecting)
    forwarding = [_forwarded(translation, counting, offload=offload), *counting] if redirecting else []
    parts = (
        *redirecting,
        _prerouting(translation, redirecting if translation.accepting else []),
        _postrouting(translation),
        *reversed(forwarding),
        _forward(translation, bool(forwarding)),
        _input(translation, bool(redirecting)),
        _output(translation),
        *([_errors(translation)] if redirecting else []),
        _guard(translation),
        *sorted(named, key=lambda chain: chain.name),
    )
    devices = tuple(sorted((translation.cluster, translation.egress)))
    flowtables = (NftFlowtable(FLOW_TABLE, devices),) if offload else ()
    return NftTable(TABLE, tuple(map(_with_comment, sets)), tuple(map(_with_comment, parts)), flowtables=flowtables)


#: What chains and sets are for: by their names without family and protocol.
_COMMENTS = {
    "cluster": "where the pod itself may go by the cluster interface",
    "pod": "the addresses of the pod that destinations are reached by",
    "source": "what may leave: EGRESS_SOURCE while this router of a pair has it",
    "redirect": "where a connection to a port goes",
    "lines": "counts traffic by configuration line",
    "count": "counts traffic by configuration line",
    "prerouting": "connections to the pod go where the configuration says",
    "postrouting": "what leaves by the egress interface has the egress address",
    "forward": "only translated connections and their replies pass",
    "forwarded": "clamps the MSS to the path MTU and counts",
    "input": "nothing new comes in from outside",
    "output": "the pod's own traffic: cluster prefixes by the cluster interface, the egress address by the other",
    "errors": "ICMP errors go back to the client by the cluster interface",
    "guard": "nothing leaves for the outside with another source",
}


def _with_comment(part: _Part) -> _Part:
    name = part.name.partition("_")[0].rstrip("46")
    return part if part.comment else replace(part, comment=_COMMENTS[name])


def _cluster_set(translation: Translation, family: Family) -> NftSet:
    # Collapsed, since nft refuses intervals that overlap.
    prefixes: dict[str, str | None] = {}
    for item in collapse_addresses(translation.cluster_prefixes.get(family, ())):  # type: ignore[type-var]
        prefixes[str(item).removesuffix(f"/{family.bits}")] = None
    return NftSet("set", f"cluster{family.value}", (f"type {_TYPE[family]}", "flags interval"), prefixes)


def _source_set(translation: Translation, family: Family) -> NftSet:
    source: dict[str, str | None] = {str(translation.sources[family]): None} if translation.holds else {}
    return NftSet("set", f"source{family.value}", (f"type {_TYPE[family]}",), source)


def _redirect(translation: Translation, family: Family) -> tuple[list[NftSet], list[NftChain]]:
    """Return the maps, the accounting sets, and the chains that redirect and that count one family; nothing without
    rules.
    """
    rules = [rule for rule in translation.rules.redirects if rule.family == family]
    spreads = list(translation.spreads(family))
    fallback = _fallback(translation, family)
    if not rules and not spreads and fallback is None:
        return [], []
    digit, ip, type_ = family.value, _IP[family], _TYPE[family]
    exact: dict[str, str | None] = {}
    # Many lines name the same few addresses.
    texts: dict[Address, str] = {}
    ranges: dict[Protocol, dict[str, str | None]] = {}
    counted: dict[Protocol, dict[str, str | None]] = {}
    for rule in rules:
        counted.setdefault(rule.protocol, {})[str(rule.ports)] = None
        if rule.same_ports and len(rule.ports) > 1:
            ranges.setdefault(rule.protocol, {})[str(rule.ports)] = str(rule.address)
        else:
            address = texts.get(rule.address)
            if address is None:
                address = texts[rule.address] = str(rule.address)
            _add_exact(exact, rule, address)
    for named in translation.rules.named:
        counted.setdefault(named.protocol, {})[str(named.ports)] = None
    # An element is changed in a moment, also where there are ten thousand rules.
    reached = translation.pod_addresses[family] if translation.holds else ()
    pod: dict[str, str | None] = {str(address): None for address in reached}
    sets = [
        NftSet("set", f"pod{digit}", (f"type {type_}",), pod),
        NftSet(
            "map",
            f"redirect{digit}",
            (f"type inet_proto . inet_service : {type_} . inet_service", "counter"),
            exact,
        ),
    ]
    chain_rules = [f"dnat {ip} to meta l4proto . th dport map @redirect{digit}"]
    for protocol, elements in ranges.items():
        name = f"redirect{digit}_{protocol}"
        header = (f"type inet_service : {type_}", "flags interval", "counter")
        sets.append(NftSet("map", name, header, elements))
        chain_rules.append(f"dnat {ip} to {protocol} dport map @{name}")
    maps, look_ups = named_maps(spreads)
    sets += maps
    chain_rules += look_ups
    count_rules = []
    for protocol, elements in counted.items():
        header = ("type inet_service", "flags interval", "counter")
        name = f"lines{digit}_{protocol}"
        sets.append(NftSet("set", name, header, elements))
        count_rules.append(f"meta l4proto {protocol} ct original proto-dst @{name} return")
    if fallback is not None:
        if translation.health_port is not None:
            chain_rules.append(f"tcp dport {translation.health_port} return")
        if translation.pair_port is not None:
            chain_rules.append(f"udp dport {translation.pair_port} return")
        chain_rules.append(f"{WITH_PORTS} counter {fallback}")
        count_rules.append("counter")
    return sets, [
        NftChain(f"redirect{digit}", None, tuple(chain_rules)),
        NftChain(f"count{digit}", None, tuple(count_rules)),
    ]


def _fallback(translation: Translation, family: Family) -> str | None:
    """Return what is done with the ports that no line claims."""
    if translation.rules.named_fallback is not None:
        return f"goto {name_chain(family, translation.rules.named_fallback)}"
    address = next((item.address for item in translation.rules.fallbacks if item.family == family), None)
    return None if address is None else f"dnat {_IP[family]} to {address}"


def _add_exact(elements: dict[str, str | None], rule: Redirect, address: str) -> None:
    """Add one element per port: nft cannot shift a range of ports."""
    shift = rule.to_ports.first - rule.ports.first
    for port in range(rule.ports.first, rule.ports.last + 1):
        elements[f"{rule.protocol.value} . {port}"] = f"{address} . {port + shift}"


def _prerouting(translation: Translation, redirecting: list[NftChain]) -> NftChain:
    rules = [
        f'iifname "{translation.cluster}" {_IP[family]} daddr @pod{family.value} jump redirect{family.value}'
        for family in Family
        if any(chain.name == f"redirect{family.value}" for chain in redirecting)
    ]
    return NftChain("prerouting", "type nat hook prerouting priority dstnat; policy accept;", tuple(rules))


def _postrouting(translation: Translation) -> NftChain:
    # Connection tracking sees a connection in adverts, too.
    rules = [f"{_sent_adverts(translation)} accept"] if translation.adverts else []
    rules += [
        f'oifname "{translation.egress}" meta nfproto {_NFPROTO[family]} snat {_IP[family]} to {source}'
        for family, source in translation.sources.items()
    ]
    return NftChain("postrouting", "type nat hook postrouting priority srcnat; policy accept;", tuple(rules))


def _forward(translation: Translation, redirects: bool) -> NftChain:
    """Forward translated connections and their replies; drop (and count) the rest."""
    out, back = translation.egress, translation.cluster
    rules = [
        f'iifname "{back}" oifname "{out}" ct direction original ct status dnat jump forwarded',
        f'iifname "{out}" oifname "{back}" ct direction reply ct status dnat jump forwarded',
    ]
    return NftChain(
        "forward",
        "type filter hook forward priority filter; policy drop;",
        (*(rules if redirects else ()), "counter"),
    )


def _forwarded(translation: Translation, counting: list[NftChain], *, offload: bool) -> NftChain:
    """Clamp the MSS to the path, both ways, and count by line."""
    family_of_chain = {f"count{family.value}": _NFPROTO[family] for family in Family}
    return NftChain(
        "forwarded",
        None,
        (
            *(_offload(translation) if offload else ()),
            "tcp flags syn tcp flags ! rst tcp option maxseg size set rt mtu",
            *(f"meta nfproto {family_of_chain[chain.name]} jump {chain.name}" for chain in counting),
            "accept",
        ),
    )


def _offload(translation: Translation) -> Iterator[str]:
    """Put established connections into the flow table: from then on their packets pass no rule, and so only those may
    be there that every rule behind would let pass.

    A reply has come by the egress interface and has its way to the client looked up; the kernel looks for the other way
    by itself, from the pod's own point of view (``nft_flow_route``). Of a client's packet it would look for the way
    back like that, and take a client that is not on the cluster interface's own network for a neighbour. Where it finds
    no route to the server it takes that for a neighbour, too, so the route is asked for first: a pair's router that
    has lost its address would send with it. The guard is repeated: what leaves with another source is not offloaded.
    """
    for family in Family:
        if family in translation.sources:
            known = _known_source(translation, family)
            yield (
                f"ct direction reply ct state established ct reply {_IP[family]} daddr {known} "
                f"meta l4proto {{ tcp, udp }} fib saddr . iif oif exists flow add @{FLOW_TABLE}"
            )


def _known_source(translation: Translation, family: Family) -> str:
    source = translation.sources[family]
    return str(source) if translation.adverts is None else f"@source{family.value}"


def _input(translation: Translation, redirects: bool) -> NftChain:
    """Nothing new comes in from outside: by any interface but the loopback and the cluster interface, for names change.
    Neighbour discovery is not tracked and has its own line.

    A client's packet that belongs to no connection (late, or outside of the window) is not translated and so reaches
    the pod itself, whose reset would end the connection that it came from.
    """
    name = f'iifname != "lo" iifname != "{translation.cluster}"'
    adverts = (f'iifname "{_by(translation)}" {_ADVERTS} accept',) if translation.adverts is not None else ()
    late = (f'iifname "{translation.cluster}" ct state invalid counter drop',) if redirects else ()
    rules = (
        *late,
        *adverts,
        f"{name} icmp type redirect drop",
        f"{name} ct state established,related accept",
        f"{name} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept",
        f"{name} counter drop",
    )
    return NftChain("input", "type filter hook input priority filter; policy accept;", rules)


def _output(translation: Translation) -> NftChain:
    """What the pod itself opens through the cluster interface goes to the cluster's own prefixes only; what it sends by
    the egress interface has the right source before the translation already.
    """
    name = f'oifname "{translation.cluster}"'
    rules = [f"{name} ct direction reply accept"]
    if translation.pair_port is not None:
        # Wherever the peers' pods are: the name servers say so.
        rules.append(f"{name} udp dport {translation.pair_port} accept")
    rules += [f"{name} {_IP[family]} daddr @cluster{family.value} accept" for family in Family]
    rules += [
        f"{name} ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} accept",
        f"{name} ip6 daddr {{ fe80::/10, ff00::/8 }} accept",
        f"{name} counter reject with icmpx admin-prohibited",
    ]
    # Errors of the pod about a packet that belongs to no connection are for whoever its source names, true or not.
    outside = f'oifname != "lo" oifname != "{translation.cluster}" ct state invalid,untracked'
    errors4 = "icmp type { destination-unreachable, time-exceeded, parameter-problem }"
    errors6 = "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"
    rules += [f"{outside} {errors} counter drop" for errors in (errors4, errors6)]
    rules += _wrong_source(translation)
    return NftChain("output", "type filter hook output priority filter; policy accept;", tuple(rules))


def _errors(translation: Translation) -> NftChain:
    """ICMP errors to a client about what it sent go back the way it came: a ``route`` chain looks again for the way."""
    rule = f'oifname "{translation.egress}" ct direction reply ct state related meta mark set {CLUSTER_MARK:#010x}'
    return NftChain("errors", "type route hook output priority mangle; policy accept;", (rule,))


def _guard(translation: Translation) -> NftChain:
    """Behind the translation: nothing leaves for the outside with another source."""
    rules = _wrong_source(translation)
    return NftChain("guard", "type filter hook postrouting priority srcnat + 10; policy accept;", rules)


def _wrong_source(translation: Translation) -> tuple[str, ...]:
    # By exclusion: an interface that was renamed leads outside as before.
    name = f'oifname != "lo" oifname != "{translation.cluster}"'
    rules: list[str] = []
    if translation.adverts is not None:
        rules.append(f"{_sent_adverts(translation)} accept")
    for family in Family:
        source: Address | None = translation.sources.get(family)
        if source is None:
            rules.append(f"{name} meta nfproto {_NFPROTO[family]} counter drop")
            continue
        if family is Family.IPV6:
            # Multicast listener reports carry no address while there is no link-local one (RFC 3810, 5.2.13).
            rules.append(f"{name} ip6 saddr :: icmpv6 type mld2-listener-report accept")
        rules.append(f"{name} {_IP[family]} saddr != {_known_source(translation, family)} counter drop")
    return tuple(rules)


_ADVERTS = f"ip daddr {GROUP} ip protocol {PROTOCOL_NUMBER}"


def _by(translation: Translation) -> str:
    """Return the interface by which adverts go."""
    return translation.adverts_by or translation.egress


def _sent_adverts(translation: Translation) -> str:
    return f'oifname "{_by(translation)}" ip saddr {str(translation.adverts).removesuffix("/32")} {_ADVERTS}'
