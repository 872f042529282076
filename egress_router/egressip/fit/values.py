"""What was seen of a cluster, and what was found out from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """What a finding means. ``UNKNOWN``: it could not be looked at, and it decides; ``UNSEEN``: it cannot be seen from
    the API server at all, and agents look at it when they start.
    """

    REFUSED = "refused"
    UNKNOWN = "unknown"
    WARNING = "warning"
    UNSEEN = "unseen"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``found`` says what is there, ``advice`` what to do, "" for nothing."""

    level: Level
    check: str
    found: str
    advice: str = ""


@dataclass(slots=True)
class Picture:
    """What the API server answered. ``lists`` are objects by path, of those that are served and may be read;
    ``unseen`` says of the others why they were not.
    """

    version: str = ""
    groups: frozenset[str] = frozenset()
    lists: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)

    def of(self, path: str) -> list[Mapping[str, Any]]:
        """Return the objects of a path, none where it is not served or was not seen."""
        return self.lists.get(path, [])


def part(value: object, *keys: str) -> Mapping[str, Any]:
    """Return a mapping inside of an object, an empty one where anything on the way is no mapping."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def entries(value: object, *keys: str) -> Iterator[Mapping[str, Any]]:
    """Yield the mappings of a list inside of an object."""
    found = part(value, *keys[:-1]).get(keys[-1])
    for entry in found if isinstance(found, list) else []:
        if isinstance(entry, Mapping):
            yield entry


def words(value: object, *keys: str) -> list[str]:
    """Return the texts of a list inside of an object."""
    found = part(value, *keys[:-1]).get(keys[-1])
    return [entry for entry in found if isinstance(entry, str)] if isinstance(found, list) else []


def text(value: object, *keys: str) -> str:
    """Return a text inside of an object, "" without one."""
    found = part(value, *keys[:-1]).get(keys[-1])
    return found if isinstance(found, str) else ""


def name_of(value: object) -> str:
    """Return NAMESPACE/NAME, or the name of an object of the cluster."""
    namespace = text(value, "metadata", "namespace")
    return f"{namespace}/{text(value, 'metadata', 'name')}" if namespace else text(value, "metadata", "name")
