"""The fleet as a picture: lines from namespaces by addresses to nodes, or with many of them a field of nodes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.daemon.page.level import Level
from egress_router.egressip.fleet.view import Fleet, NodeRow

#: With more than this the lines cannot be followed any more, and each node is a cell of a field.
MOST_NODES, MOST_ADDRESSES, MOST_NAMESPACES = 24, 48, 48
#: Sizes are SVG user units.
ROW, TOP, COLUMN_NAMESPACE, COLUMN_ADDRESS, COLUMN_NODE, WIDTH = 26, 34, 10, 330, 650, 960
CELL, CELLS_A_ROW = 24, 40
#: Characters of a name that fit a column.
LABEL = 34


@dataclass(frozen=True, slots=True)
class Item:
    """Something with a name at ``x``, ``y``; ``title`` is its full text."""

    x: int
    y: int
    label: str
    title: str
    level: Level

    @property
    def end(self) -> int:
        """Where the text ends, as far as can be told without its font."""
        return self.x + 24 + 8 * len(self.label)


@dataclass(frozen=True, slots=True)
class Line:
    """A connection between two items. ``level`` is that of what it means."""

    x1: int
    y1: int
    x2: int
    y2: int
    level: Level


@dataclass(frozen=True, slots=True)
class Picture:
    """Items and lines of a picture, ``width`` × ``height``, or ``cells``: nodes of a field, sorted by trouble.
    ``text`` says the same in a sentence, for those who do not see it.
    """

    width: int
    height: int
    text: str
    namespaces: tuple[Item, ...] = ()
    addresses: tuple[Item, ...] = ()
    nodes: tuple[Item, ...] = ()
    lines: tuple[Line, ...] = ()
    cells: tuple[Item, ...] = ()


def draw(fleet: Fleet) -> Picture:
    """Return the picture of a fleet, of the rows that it has."""
    holding = [node for node in fleet.nodes if node.addresses] or list(fleet.nodes)
    small = (
        len(holding) <= MOST_NODES
        and len(fleet.addresses) <= MOST_ADDRESSES
        and len(fleet.namespaces) <= MOST_NAMESPACES
    )
    return _lines(fleet, holding) if small else _field(fleet)


def _short(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"


def _lines(fleet: Fleet, holding: list[NodeRow]) -> Picture:
    namespaces = {
        row.name: Item(COLUMN_NAMESPACE, TOP + ROW * number, _short(row.name), f"{row.name}: {row.state}", row.level)
        for number, row in enumerate(sorted(fleet.namespaces, key=lambda row: row.name))
    }
    nodes = {
        row.name: Item(COLUMN_NODE, TOP + ROW * number, _short(row.name), f"{row.name}: {row.state}", row.level)
        for number, row in enumerate(sorted(holding, key=lambda row: row.name))
    }
    # Addresses stand in the order of who holds them, so that few lines cross.
    order = sorted(fleet.addresses, key=lambda row: (nodes[row.node].y if row.node in nodes else 1 << 30, row.ip))
    addresses = {
        row.ip: Item(COLUMN_ADDRESS, TOP + ROW * number, row.ip, f"{row.ip}: {row.state}", row.level)
        for number, row in enumerate(order)
    }
    lines = []
    for row in order:
        here = addresses[row.ip]
        lines += [
            Line(namespaces[name].end, namespaces[name].y, COLUMN_ADDRESS - 12, here.y, row.level)
            for name in row.namespaces
            if name in namespaces
        ]
        if row.node in nodes:
            lines.append(Line(here.end, here.y, COLUMN_NODE - 12, nodes[row.node].y, row.level))
    rows = max(len(namespaces), len(nodes), len(addresses), 1)
    on = {row.ip: f" on {row.node}" if row.node else "" for row in order}
    text = "; ".join(f"{row.ip} of {', '.join(row.namespaces)}: {row.state}{on[row.ip]}" for row in order)
    return Picture(
        WIDTH,
        TOP + ROW * rows + 4,
        text or "no egress IPs",
        tuple(namespaces.values()),
        tuple(addresses.values()),
        tuple(nodes.values()),
        tuple(lines),
    )


def _field(fleet: Fleet) -> Picture:
    cells = tuple(
        Item(
            4 + CELL * (number % CELLS_A_ROW),
            4 + CELL * (number // CELLS_A_ROW),
            str(len(row.addresses)) if row.addresses else "",
            f"{row.name}: {row.state}, {len(row.addresses)} egress IPs, {row.pods} pods",
            row.level,
        )
        for number, row in enumerate(fleet.nodes)
    )
    count = {level: sum(1 for row in fleet.nodes if row.level is level) for level in Level}
    text = f"{len(cells)} nodes: " + ", ".join(f"{number} {level.word}" for level, number in count.items())
    rows = (len(cells) + CELLS_A_ROW - 1) // CELLS_A_ROW
    return Picture(8 + CELL * CELLS_A_ROW, 8 + CELL * max(rows, 1), text, cells=cells)
