"""Rules with names in nftables, and what elements and rules have counted.

Each rule with a name has two chains of its own::

    chain name4_tcp_443 { jump answer4_tcp_443; counter drop }
    chain answer4_tcp_443 { ct mark set MARK; dnat ip to numgen random mod 2 map { 0 : ADDRESS, 1 : ADDRESS } }

so that another answer changes one chain and no counter. What the first one drops found no address.
"""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.config.values import Family, Protocol
from egress_router.net.nft.values import NftChain, NftSet
from egress_router.redirect.values import Counters, NamedFallback, NamedRedirect, Spread, Translation

DROP = "counter drop"
_NAME, _ANSWER = "name", "answer"
#: What nft lets a comment have, its end included (NFTNL_UDATA_COMMENT_MAXLEN).
_COMMENT = 127


def answer_chains(translation: Translation) -> list[str]:
    """Return the names of the chains that answers change."""
    return [answer_chain(spread).name for family in translation.sources for spread in translation.spreads(family)]


def name_chain(family: Family, rule: NamedRedirect | NamedFallback) -> str:
    """Return the name of the chain that a rule's connections go to."""
    return f"{_NAME}{_label(family, rule)}"


def answer_chain(spread: Spread) -> NftChain:
    """Return the chain that sends connections to the addresses: empty without any."""
    comment = f"addresses of {spread.rule.name.text}"[:_COMMENT]
    return NftChain(
        f"{_ANSWER}{_label(spread.family, spread.rule)}", None, tuple(_answer(spread)), comment, dynamic=True
    )


def named_chains(spread: Spread) -> tuple[NftChain, NftChain]:
    """Return both chains of a rule."""
    answer = answer_chain(spread)
    name, comment = name_chain(spread.family, spread.rule), f"connections to {spread.rule.name.text}"[:_COMMENT]
    return NftChain(name, None, (f"jump {answer.name}", DROP), comment, dynamic=True), answer


def named_maps(spreads: Iterable[Spread]) -> tuple[list[NftSet], list[str]]:
    """Return the maps from ports to chains, and the rules that look ports up in them."""
    found: dict[tuple[Family, Protocol], dict[str, str | None]] = {}
    for spread in spreads:
        if isinstance(spread.rule, NamedRedirect):
            elements = found.setdefault((spread.family, spread.rule.protocol), {})
            elements[str(spread.rule.ports)] = f"goto {name_chain(spread.family, spread.rule)}"
    header = ("type inet_service : verdict", "flags interval", "counter")
    maps = [
        NftSet("map", map_name(*key), header, elements, "ports of rules with a host name")
        for key, elements in found.items()
    ]
    return maps, [f"{protocol} dport vmap @{map_name(family, protocol)}" for family, protocol in found]


def map_name(family: Family, protocol: Protocol) -> str:
    """Return the name of the map that holds the ports of rules with names."""
    return f"named{family.value}_{protocol}"


def _label(family: Family, rule: NamedRedirect | NamedFallback) -> str:
    what = f"{rule.protocol}_{rule.ports.first}" if isinstance(rule, NamedRedirect) else "any"
    return f"{family.value}_{what}"


def _answer(spread: Spread) -> Iterable[str]:
    rule, addresses = spread.rule, spread.addresses
    count = len(addresses)
    if not count:
        return
    yield f'ct mark set {rule.name.mark:#010x} comment "{rule.name.text[:_COMMENT]}"'
    to = f"dnat {'ip6' if spread.family is Family.IPV6 else 'ip'} to"
    if isinstance(rule, NamedFallback) or rule.same_ports:
        choices = ", ".join(f"{number} : {address}" for number, address in enumerate(addresses))
        yield f"{to} {addresses[0]}" if count == 1 else f"{to} numgen random mod {count} map {{ {choices} }}"
        return
    # A choice among what is left, address by address: nft crashes on listing a map of both numgen and a port.
    for number, address in enumerate(addresses):
        left = count - number
        chance = "" if left == 1 else f"numgen random mod {left} 0 "
        pairs = zip(
            range(rule.ports.first, rule.ports.last + 1),
            range(rule.to_ports.first, rule.to_ports.last + 1),
            strict=True,
        )
        ports = ", ".join(f"{port} : {address} . {to_port}" for port, to_port in pairs)
        yield f"{chance}{to} {rule.protocol} dport map {{ {ports} }}"


#: Name of a set and key of its element, or "chain NAME" and "" → packets, bytes.
Counted = dict[tuple[str, str], tuple[int, int]]


def by_line(desired: Translation, values: Counted) -> dict[int, Counters]:
    """Add up counters by configuration line.

    Connections are what the maps of the nat chains counted (a connection's first packet), packets and bytes what the
    ``lines`` sets of the forward chains counted.
    """
    found: dict[int, Counters] = {}
    for rule in desired.rules.redirects:
        digit = rule.family.value
        if rule.same_ports and len(rule.ports) > 1:
            connections = values.get((f"redirect{digit}_{rule.protocol}", str(rule.ports)), (0, 0))[0]
        else:
            ports = range(rule.ports.first, rule.ports.last + 1)
            name = f"redirect{digit}"
            connections = sum(values.get((name, f"{rule.protocol} . {port}"), (0, 0))[0] for port in ports)
        packets, size = values.get((f"lines{digit}_{rule.protocol}", str(rule.ports)), (0, 0))
        found[rule.line] = Counters(connections, packets, size)
    for fallback in desired.rules.fallbacks:
        digit = fallback.family.value
        connections = values.get((f"chain redirect{digit}", ""), (0, 0))[0]
        found[fallback.line] = Counters(connections, *values.get((f"chain count{digit}", ""), (0, 0)))
    for family in desired.sources:
        for spread in desired.spreads(family):
            line = spread.rule.line
            found[line] = found.get(line, Counters()) + _of_a_name(spread.rule, family, values)
    return found


def _of_a_name(rule: NamedRedirect | NamedFallback, family: Family, values: Counted) -> Counters:
    """Return the traffic of a rule with a name in one family: what its chain has dropped is no connection."""
    digit = family.value
    if isinstance(rule, NamedRedirect):
        asked = values.get((map_name(family, rule.protocol), str(rule.ports)), (0, 0))[0]
        traffic = values.get((f"lines{digit}_{rule.protocol}", str(rule.ports)), (0, 0))
    else:
        asked = values.get((f"chain redirect{digit}", ""), (0, 0))[0]
        traffic = values.get((f"chain count{digit}", ""), (0, 0))
    dropped = values.get((f"chain {name_chain(family, rule)}", ""), (0, 0))[0]
    return Counters(asked - dropped, *traffic)


def last_of_chains(counted: Counted) -> Counted:
    """Return ``counted`` with ("chain NAME", "") for the last counting rule of each chain: the fallback's."""
    return {(place, "" if place.startswith("chain ") else what): value for (place, what), value in counted.items()}
