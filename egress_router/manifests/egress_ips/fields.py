"""Fields that objects of several projects have: selectors, addresses, networks, names, labels. What cannot go over is
noted as lost, with the field and why.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any

from egress_router.egressip.api import (
    DROP,
    NODE_IP,
    V6,
    address_key,
    address_text,
    except_network,
    length_hint,
    network_range,
    networks_of,
)
from egress_router.errors import described
from egress_router.kubernetes.selectors import Selector, parse_selector
from egress_router.manifests.egress_ips.values import Gathered
from egress_router.manifests.objects import ManifestObject, as_mapping, as_text

#: Limits of the schemas in deploy/egress-ips/base/crds.
MOST_REQUIREMENTS, MOST_VALUES, MOST_ADDRESSES, MOST_NETWORKS = 32, 64, 64, 64
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEY = re.compile(rf"({_SUBDOMAIN.pattern}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
MOST_NAME, MOST_VALUE = 253, 63
#: No address of a node: 0.0.0.0/8, 240.0.0.0/4, and IPv6 addresses whose text starts with ``::``.
_NO_ADDRESSES = ((0, 2**24 - 1), (15 * 2**28, 2**32 - 1), (V6, V6 + 2**112 - 1))
#: Labels and annotations of the tools that manage an object: not of what it says.
_OF_TOOLS = re.compile(
    r"(kubectl\.kubernetes\.io|meta\.helm\.sh|helm\.sh|argocd\.argoproj\.io|kustomize\.toolkit\.fluxcd\.io|"
    r"helm\.toolkit\.fluxcd\.io|olm\.owner|operator\.openshift\.io|release\.openshift\.io)(/.*)?|"
    r"app\.kubernetes\.io/managed-by"
)


def is_name(text: str) -> bool:
    """Return whether an object of the cluster can have this name."""
    return len(text) <= MOST_NAME and _SUBDOMAIN.fullmatch(text) is not None


def egress_address(text: str) -> str | None:
    """Return an address as our objects write it, None where no node can hold it."""
    key = address_key(text.strip())
    if key is None or any(first <= key <= last for first, last in _NO_ADDRESSES):
        return None
    return address_text(key)


def addresses(item: ManifestObject, field: str, value: Any, into: Gathered) -> tuple[str, ...]:
    """Return the usable addresses of a list or of one text, each once."""
    if value is None or value == "":
        return ()
    entries = value if isinstance(value, list) else [value]
    found: dict[str, None] = {}
    for entry in entries:
        address = egress_address(entry) if isinstance(entry, str) else None
        if address is None:
            hint = length_hint(entry) if isinstance(entry, str) else ""
            into.lost(item.where, f'{field} "{described(entry)}" is not an address that a node can hold{hint}')
        else:
            found[address] = None
    if len(found) > MOST_ADDRESSES:
        into.lost(item.where, f"{field} has {len(found)} addresses, and an EgressIP at most {MOST_ADDRESSES}")
        return ()
    return tuple(found)


def selector(item: ManifestObject, field: str, value: Any, into: Gathered) -> Selector | None:
    """Return a label selector, everything where it is absent; None, and a note, where ours cannot say the same."""
    wrong: list[str] = []

    def report(place: str, text: object, message: str, expected: str) -> None:
        shown = "" if text is None else f' "{described(text)}"'
        wrong.append(f"{place}{shown} {message} ({expected})")

    found = Selector() if value is None else parse_selector(field, value, report)
    if not wrong:
        wrong += [f"{field} {problem}" for problem in unsayable(found)]
    for text in wrong:
        into.lost(item.where, f"{text}; nothing is written for it")
    return None if wrong else found


def unsayable(found: Selector) -> Iterable[str]:
    """Yield what keeps our schema from taking a selector."""
    labels = sum(len(requirement.values) == 1 and requirement.operator == "In" for requirement in found.requirements)
    if max(labels, len(found.requirements) - labels) > MOST_REQUIREMENTS:
        yield f"has more than {MOST_REQUIREMENTS} labels or expressions"
    for requirement in found.requirements:
        if not is_key(requirement.key):
            yield f'has a key "{described(requirement.key)}" that no label has'
        if len(requirement.values) > MOST_VALUES:
            yield f"has {len(requirement.values)} values of {requirement.key}, and at most {MOST_VALUES} can stand"
        for value in sorted(requirement.values):
            if not is_value(value):
                yield f'has a value "{described(value)}" that no label has'


def is_key(text: str) -> bool:
    """Return whether a label can have this key."""
    return text.find("/") <= MOST_NAME and len(text) <= MOST_NAME + 64 and _KEY.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Return whether a label can have this value."""
    return len(text) <= MOST_VALUE and _VALUE.fullmatch(text) is not None


def networks(item: ManifestObject, field: str, value: Any, into: Gathered) -> tuple[str, ...] | None:
    """Return a list of networks without host bits, in their usual form; None where one of them is none."""
    if value is None:
        return ()
    found = []
    for entry in value if isinstance(value, list) else [value]:
        span = network_range(entry) if isinstance(entry, str) else None
        if span is None:
            into.lost(item.where, f'{field} "{described(entry)}" is not a network; nothing is written for it')
            return None
        found += networks_of([span])
        if not except_network(found[-1])[0]:
            # IPv4 addresses inside of IPv6.
            into.lost(item.where, f'{field} "{described(entry)}" is no network of ours; nothing is written for it')
            return None
    return tuple(dict.fromkeys(found))


def everything_but(wanted: Collection[str], families: Collection[int]) -> tuple[str, ...]:
    """Return the networks that make up all addresses of these IP versions without the ``wanted`` ones."""
    rest: list[IPv4Network | IPv6Network] = []
    for version in sorted(families):
        left: list[Any] = [ip_network("0.0.0.0/0" if version == 4 else "::/0")]
        inside: Any = [network for text in wanted if (network := ip_network(text)).version == version]
        for network in collapse_addresses(inside):
            left = [
                part
                for whole in left
                for part in (
                    whole.address_exclude(network)
                    if network != whole and network.subnet_of(whole)
                    else []
                    if network == whole
                    else [whole]
                )
            ]
            if len(left) > 4 * MOST_NETWORKS:
                break
        rest += sorted(left)
    return tuple(map(str, rest))


def meant(item: ManifestObject, into: Gathered) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels and annotations that people gave the object; what cannot be one is noted."""
    kept: list[dict[str, str]] = []
    for field in ("labels", "annotations"):
        found: dict[str, str] = {}
        for key, value in as_mapping(item.metadata.get(field)).items():
            if _OF_TOOLS.fullmatch(key):
                continue
            if not isinstance(value, str) or not is_key(key) or (field == "labels" and not is_value(value)):
                into.lost(item.where, f"metadata.{field} {described(key)}: {described(value)} cannot be one")
                continue
            found[key] = value
        kept.append(found)
    return kept[0], kept[1]


def unknown(item: ManifestObject, field: str, value: Mapping[str, Any], known: Collection[str], into: Gathered) -> None:
    """Note the fields of a part that nothing is made of."""
    for key in value:
        if key not in known and value[key] not in (None, "", [], {}):
            into.lost(item.where, f"{field}.{described(key)} has no place in ours")


def leaves_with_node_ip(item: ManifestObject, field: str, value: Any, into: Gathered) -> bool:
    """Return whether our ``whenUnavailable`` says NodeIP; another word is noted."""
    if value not in (None, DROP, NODE_IP):
        into.lost(item.where, f'{field} "{described(value)}" says nothing that is known: {DROP} or {NODE_IP}')
    return bool(value == NODE_IP)


def usable_name(item: ManifestObject, into: Gathered) -> bool:
    """Return whether our object can have the name; note it where it cannot."""
    if is_name(item.name):
        return True
    into.lost(item.where, "its name cannot be that of an object of ours; nothing is written for it")
    return False


def holder(item: ManifestObject, field: str, value: Any, into: Gathered) -> str:
    """Return the name of a node, "" where there is none."""
    text = as_text(value)
    if not text or is_name(text):
        return text
    into.lost(item.where, f'{field} "{described(text)}" is no name of a node')
    return ""
