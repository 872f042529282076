"""Ranges of addresses that others' pools have → EgressIPPool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from egress_router.egressip.api import address_key, family, network_range, networks_of
from egress_router.errors import described
from egress_router.manifests.egress_ips.fields import egress_address, usable_name
from egress_router.manifests.egress_ips.values import Gathered
from egress_router.manifests.objects import ManifestObject, as_text

#: An EgressIPPool has at most so many ranges (deploy/egress-ips/base/crds).
MOST_RANGES = 32


def pool(item: ManifestObject, field: str, entries: Iterable[Any], into: Gathered) -> None:
    """Take a pool of the name of the object. An entry is a mapping (``cidr``, or ``start`` and ``end``) or a text: an
    address, a network, or two addresses with a hyphen between.
    """
    ranges: list[dict[str, str]] = []
    for entry in entries:
        found = _range(entry)
        if found is None:
            into.lost(item.where, f"{field}: {_shown(entry)} is no range of addresses that nodes can hold")
        elif found not in ranges:
            ranges.append(found)
    if not ranges or not usable_name(item, into):
        return
    if len(ranges) > MOST_RANGES:
        into.lost(item.where, f"{field} has more than {MOST_RANGES} ranges; the first ones are written")
        del ranges[MOST_RANGES:]
    if item.name in into.pools:
        into.lost(item.where, f"there is a pool {item.name} already; nothing is written for it")
        return
    into.pools[item.name] = ranges
    into.same(item.where, f"EgressIPPool {item.name} ({len(ranges)} range{'s' * (len(ranges) != 1)})")
    into.changed(
        item.where,
        "addresses in use are fixed to what they are; an EgressIP with spec.pool is given others, and names its nodes"
        " itself (egressNodeSelector)",
    )


def _range(entry: Any) -> dict[str, str] | None:
    if isinstance(entry, Mapping):
        first, last = as_text(entry.get("start")), as_text(entry.get("end"))
        return _network(as_text(entry.get("cidr"))) if "cidr" in entry else _between(first, last)
    text = as_text(entry).strip()
    if "/" in text:
        return _network(text)
    first, _, last = text.partition("-")
    return _between(first, last or first)


def _network(text: str) -> dict[str, str] | None:
    span = network_range(text)
    if span is None:
        return None
    (network,) = networks_of([span])
    held = egress_address(network.partition("/")[0])
    return None if held is None or network.endswith("/0") else {"cidr": network}


def _between(first: str, last: str) -> dict[str, str] | None:
    start, end = egress_address(first), egress_address(last)
    if start is None or end is None:
        return None
    low, high = address_key(start) or 0, address_key(end) or 0
    return {"start": start, "end": end} if low <= high and family(low) == family(high) else None


def _shown(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return ", ".join(f"{described(key)}: {described(value)}" for key, value in list(entry.items())[:4]) or "{}"
    return f'"{described(entry)}"'
