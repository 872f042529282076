"""An address belongs to one EgressIP: groups with the same addresses become one where one selector can say so.

Elsewhere several objects may have one address. The union of two selections is one selection where they differ in the
values of a single ``key In values``, or where one has all requirements of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from egress_router.kubernetes.selectors import Requirement, Selector
from egress_router.manifests.egress_ips.fields import MOST_NAME, MOST_VALUES
from egress_router.manifests.egress_ips.values import Gathered, Group

#: Where a requirement stands, and the requirement.
_Part = tuple[str, Requirement]
_NAMESPACES, _PODS = "namespaces", "pods"


def put_together(into: Gathered) -> list[Group]:
    """Return the groups with each address in one of them, and names that differ; what is left out is noted."""
    buckets: dict[object, list[Group]] = {}
    for group in into.groups:
        buckets.setdefault((group.addresses, group.nodes, group.directly, group.node_ip), []).append(group)
    found: list[Group] = []
    for bucket in buckets.values():
        found += _united(bucket, into) if len(bucket) > 1 else bucket
    order = {id(group): number for number, group in enumerate(into.groups)}
    found.sort(key=lambda group: order[id(group)])
    return _with_names(_without_overlaps(found, into), into)


def _united(bucket: list[Group], into: Gathered) -> list[Group]:
    """Return the groups of one bucket, those made one whose selections one selector can say."""
    selections: dict[frozenset[_Part], list[Group]] = {}
    for group in bucket:
        selections.setdefault(_parts(group), []).append(group)
    while True:
        fewer = _absorbed(_joined(_absorbed(selections)))
        if len(fewer) == len(selections):
            break
        selections = fewer
    found = []
    for parts, groups in selections.items():
        first = groups[0]
        if len(groups) > 1:
            names = ", ".join(dict.fromkeys(group.where for group in groups))
            if names != first.where:
                into.changed(first.where, f"{names} have the same address and become one EgressIP, {first.name}")
            first.namespaces, first.pods = (_selector(parts, place) for place in (_NAMESPACES, _PODS))
            for group in groups[1:]:
                first.others += (group.where,)
                first.present = {**group.present, **first.present}
                first.labels = {key: text for key, text in first.labels.items() if group.labels.get(key) == text}
        found.append(first)
    return found


def _parts(group: Group) -> frozenset[_Part]:
    return frozenset(
        (place, requirement)
        for place, selector in ((_NAMESPACES, group.namespaces), (_PODS, group.pods))
        for requirement in selector.requirements
    )


def _selector(parts: Iterable[_Part], place: str) -> Selector:
    own = [requirement for where, requirement in parts if where == place]
    return Selector(tuple(sorted(own, key=lambda one: (one.key, one.operator, sorted(one.values)))))


def _joined(selections: dict[frozenset[_Part], list[Group]]) -> dict[frozenset[_Part], list[Group]]:
    """Join selections that are the same but for the values of one ``key In values``."""
    keys = dict.fromkeys((place, one.key) for parts in selections for place, one in parts if one.operator == "In")
    for place, key in sorted(keys):
        rests: dict[object, list[tuple[frozenset[_Part], list[Group]]]] = {}
        for parts, groups in selections.items():
            own = [part for part in parts if part[0] == place and part[1].key == key and part[1].operator == "In"]
            rest: object = parts - set(own) if len(own) == 1 else (parts,)
            rests.setdefault(rest, []).append((parts, groups))
        after: dict[frozenset[_Part], list[Group]] = {}
        for alike in rests.values():
            for parts, groups in _one_of(place, key, alike) if len(alike) > 1 else alike:
                after.setdefault(parts, []).extend(groups)
        selections = after
    return selections


def _one_of(
    place: str, key: str, alike: list[tuple[frozenset[_Part], list[Group]]]
) -> Iterator[tuple[frozenset[_Part], list[Group]]]:
    """Yield the selections as one; as several where the values are more than one expression can have."""
    values: frozenset[str] = frozenset()
    groups: list[Group] = []
    rest: frozenset[_Part] = frozenset()
    for parts, more in alike:
        own = next(part for part in parts if part[0] == place and part[1].key == key and part[1].operator == "In")
        if groups and len(values | own[1].values) > MOST_VALUES:
            yield rest | {(place, Requirement(key, "In", values))}, groups
            values, groups = frozenset(), []
        rest = parts - {own}
        values |= own[1].values
        groups = [*groups, *more]
    yield rest | {(place, Requirement(key, "In", values))}, groups


def _absorbed(selections: dict[frozenset[_Part], list[Group]]) -> dict[frozenset[_Part], list[Group]]:
    """Put a selection that only narrows another one to that."""
    found = dict(selections)
    everything: frozenset[_Part] = frozenset()
    for parts in list(selections):
        wider = [parts - {part} for part in sorted(parts, key=repr)]
        target = next((one for one in [*wider, everything] if one in found and one != parts), None)
        if target is not None:
            found[target] = [*found[target], *found.pop(parts)]
    return found


def _without_overlaps(groups: list[Group], into: Gathered) -> list[Group]:
    """Leave each address to one group: to the one for which a node has it, else to the first."""
    owners: dict[str, Group] = {}
    for group in sorted(groups, key=lambda one: not one.present):
        for address in group.addresses:
            if address not in owners or (address in group.present and address not in owners[address].present):
                owners[address] = group

    def lost_of(group: Group, text: str) -> None:
        for where in dict.fromkeys((group.where, *group.others)):
            into.lost(where, text)

    found = []
    for group in groups:
        kept = []
        for address in group.addresses:
            owner = owners[address]
            if owner is group:
                kept.append(address)
                continue
            lost_of(
                group,
                f"{address} goes to {owner.where}, and an address belongs to one EgressIP; "
                + ("the others are written" if len(group.addresses) > 1 else "its pods need another address"),
            )
        if kept:
            group.addresses = tuple(kept)
            found.append(group)
        elif len(group.addresses) > 1:
            lost_of(group, "no address of it is left; nothing is written for it")
    return found


def _with_names(groups: list[Group], into: Gathered) -> list[Group]:
    """Give every group a name of its own."""
    taken: set[str] = set()
    wanted = {group.name for group in groups}
    for group in groups:
        name, number = group.name, 2
        while name in taken:
            end = f"-{number}"
            name = group.name[: MOST_NAME - len(end)].rstrip("-.") + end
            number += 1
            if name in wanted:
                continue
        if name != group.name:
            into.changed(group.where, f"{group.name} is taken, so it becomes {name}")
            group.name = name
        taken.add(name)
        wanted.add(name)
    return groups
