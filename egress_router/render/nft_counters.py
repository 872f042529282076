"""What nft's elements and rules have counted → traffic by configuration line."""

from __future__ import annotations

from egress_router.model.addresses import Family
from egress_router.model.router import NamedFallback, NamedRedirect
from egress_router.model.translation import Counters, Translation
from egress_router.render.nft_names import map_name, name_chain

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


def chain_counters(listing: str) -> Counted:
    """Return {("chain NAME", ""): (packets, bytes)} of the last counting rule of each chain: the fallback's."""
    found: Counted = {}
    place = ""
    for raw in listing.splitlines():
        words = raw.split()
        if len(words) == 3 and words[0] == "chain":
            place = f"chain {words[1]}"
        elif (
            place
            and "counter" in words
            and words[words.index("counter") + 1 : words.index("counter") + 2] == ["packets"]
        ):
            at = words.index("counter")
            found[(place, "")] = (int(words[at + 2]), int(words[at + 4]))
    return found
