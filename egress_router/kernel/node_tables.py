"""Load the agent's nft tables, and read back what a restarted agent must know. See nft(8)."""

from __future__ import annotations

import json
from collections import deque

from egress_router.errors import ToolFailed
from egress_router.kernel.tool import run_tool
from egress_router.render.node_guard import GUARD
from egress_router.render.node_nft import TABLE

#: The last processes that changed the tables for us; notices of their changes may still wait to be read.
loaders: deque[int] = deque(maxlen=64)


def load(script: str) -> None:
    """Apply a script in one transaction. Raises ToolFailed; then nothing changed."""
    if script:
        run_tool(["nft", "-f", "-"], script, loaders.append)


def held_before() -> frozenset[str]:
    """Return the egress IPs that the tables say are ours on the interface; none without tables."""
    found: set[str] = set()
    for version in (4, 6):
        found.update(_elements(f"held{version}"))
    return frozenset(found)


def ways_before() -> frozenset[str]:
    """Return the chains that pods' ways led to: the holders that were in use."""
    return _targets("way4") | _targets("way6")


def alive_before() -> frozenset[str]:
    """Return the chains of the holders whose connections were to go on."""
    return _targets("stay")


def _targets(name: str) -> frozenset[str]:
    return frozenset(
        item[1]["goto"]["target"]
        for item in _raw(name, "map")
        if isinstance(item, list) and isinstance(item[1], dict) and "goto" in item[1]
    )


def dropped_packets() -> dict[str, int]:
    """Return the packets that each counter has seen, see DROPS; empty without tables. Costs the same however many pods
    there are.
    """
    try:
        listing = json.loads(run_tool(["nft", "-j", "list", "counters", "table", "inet", TABLE]))
    except ToolFailed:
        return {}
    counters = [item["counter"] for item in listing["nftables"] if "counter" in item]
    return {counter["name"]: int(counter["packets"]) for counter in counters}


def _elements(name: str) -> list[str]:
    return [item for item in _raw(name, "set") if isinstance(item, str)]


def _raw(name: str, kind: str) -> list[object]:
    try:
        listing = json.loads(run_tool(["nft", "-j", "list", kind, "inet", TABLE, name]))
    except ToolFailed:
        return []
    for item in listing["nftables"]:
        if kind in item:
            return list(item[kind].get("elem", []))
    return []


def present() -> bool:
    """Tell whether our tables are in the kernel, and the guard of the boot is not."""
    tables = set(run_tool(["nft", "list", "tables"]).splitlines())
    return {f"table inet {TABLE}", f"table arp {TABLE}"} <= tables and f"table inet {GUARD}" not in tables
