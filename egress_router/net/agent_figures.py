"""The figures of a node that its agent tells controllers, in parts that fit a datagram. What comes is not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

#: So many addresses are in a part, and so many nodes with broken legs are told of at all.
PART_ITEMS, MOST_BROKEN = 20, 10
#: The most parts that are believed: 64 * 20 addresses.
MOST_PARTS = 64
_MOST_COUNT = 1 << 63
#: As the name of a Node (RFC 1123), and as the text of an IPv6 address.
_LONGEST, _LONGEST_ADDRESS = 253, 45


@dataclass(frozen=True, slots=True)
class Figures:
    """Part ``part`` of ``parts``. By egress IP on the node: ``connections`` that leave with it, and ``ports``, the most
    source ports in use towards one remote. ``drops``: packets by reason. ``broken``: by other node, which leg of the
    way there does not work. ``untold``: so many more addresses are on the node than are told of. The latter three and
    ``version``, the agent's, are in the first part.
    """

    part: int
    parts: int
    version: str = ""
    connections: Mapping[str, int] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    drops: Mapping[str, int] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    untold: int = 0


def parts_of(
    version: str,
    connections: Mapping[str, int],
    ports: Mapping[str, int],
    drops: Mapping[str, int],
    broken: Mapping[str, str],
) -> list[Figures]:
    """Return the figures in parts; what is 0 is left out, but for connections. Of more addresses than are believed
    those with the most source ports in use are told, which somebody has to hear of first, then those with the most
    connections. Pure.
    """
    ips = sorted(connections)
    if len(ips) > MOST_PARTS * PART_ITEMS:
        busy = sorted(ips, key=lambda ip: (-ports.get(ip, 0), -connections[ip]))
        ips = sorted(busy[: MOST_PARTS * PART_ITEMS])
    groups = [ips[start : start + PART_ITEMS] for start in range(0, len(ips), PART_ITEMS)] or [[]]
    seen = {reason: count for reason, count in drops.items() if count}
    first = dict(sorted(broken.items())[:MOST_BROKEN])
    return [
        Figures(
            number,
            len(groups),
            "" if number else version,
            {ip: connections[ip] for ip in group},
            {ip: ports[ip] for ip in group if ports.get(ip)},
            {} if number else seen,
            {} if number else first,
            0 if number else len(connections) - len(ips),
        )
        for number, group in enumerate(groups)
    ]


def as_message(figures: Figures) -> dict[str, object]:
    """Return a part as it stands in a message."""
    message: dict[str, object] = {
        "part": figures.part,
        "parts": figures.parts,
        "version": figures.version,
        "connections": dict(figures.connections),
        "ports": dict(figures.ports),
        "drops": dict(figures.drops),
        "broken": dict(figures.broken),
    }
    if figures.untold:
        message["untold"] = figures.untold
    return message


def parse_figures(value: object) -> Figures | None:
    """Return what ``as_message`` made, None when it is no such thing. Never raises: names and numbers of other kinds,
    too long or too many of them, are left out.
    """
    if not isinstance(value, dict):
        return None
    part, parts = value.get("part"), value.get("parts")
    if type(part) is not int or type(parts) is not int or not 0 <= part < parts <= MOST_PARTS:
        return None
    version, untold = value.get("version"), value.get("untold")
    return Figures(
        part,
        parts,
        version if _is_name(version) else "",
        _counts(value.get("connections"), _LONGEST_ADDRESS),
        _counts(value.get("ports"), _LONGEST_ADDRESS),
        _counts(value.get("drops")),
        {name: leg for name, leg in _entries(value.get("broken")) if _is_name(leg)},
        untold if type(untold) is int and 0 <= untold < _MOST_COUNT else 0,
    )


def _entries(value: object) -> list[tuple[str, object]]:
    """Return the first entries of an object whose names are short texts."""
    if not isinstance(value, dict):
        return []
    return [(name, item) for name, item in list(value.items())[:PART_ITEMS] if _is_name(name)]


def _counts(value: object, longest: int = _LONGEST) -> dict[str, int]:
    counts = {name: item for name, item in _entries(value) if type(item) is int and 0 <= item < _MOST_COUNT}
    return {name: count for name, count in counts.items() if len(name) <= longest}


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= _LONGEST and value.isascii() and value.isprintable()
