"""What the nft tables of an earlier agent say, and what ours have counted. See nft(8)."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from egress_router.egressip.node.guard import GUARD
from egress_router.egressip.node.marks import OWN_SLOT
from egress_router.egressip.node.nft_rules import INET, TABLE
from egress_router.errors import ToolFailed
from egress_router.net.nft.kernel import NftKernel
from egress_router.net.nft.notices import NftWatch
from egress_router.net.process import run_tool

#: The last processes that changed the tables for us; notices of their changes may still wait to be read.
loaders: deque[int] = deque(maxlen=64)


def load(script: str) -> None:
    """Apply a script in one transaction. Raises ToolFailed; then nothing changed."""
    if script:
        run_tool(["nft", "-f", "-"], script, loaders.append)


def tables() -> NftKernel:
    """Return the nftables of this network namespace; what it changes counts as ours."""
    return NftKernel(loaders.append)


def table_watch() -> NftWatch:
    """Return what hears of changes of our tables and of the guard of the boot."""
    return NftWatch((TABLE, GUARD))


# The sets have the names of this build; those of the build before it are understood, too.


def assigned_before() -> frozenset[str]:
    """Return the egress IPs that the tables say are ours on the interface; none without tables."""
    found: set[str] = set()
    for version in (4, 6):
        for name in (f"egress_ips{version}", f"held{version}"):
            found.update(item for item in _raw(name, "set") if isinstance(item, str))
    return frozenset(found)


def used_before() -> frozenset[int]:
    """Return the slots of the gateways that pods left by."""
    return frozenset(slot for name in ("path4", "path6", "way4", "way6") for slot in _slots(name))


def alive_before() -> frozenset[int]:
    """Return the slots of the gateways whose connections were to go on."""
    return frozenset(slot for name in ("known_paths", "stay") for slot in _slots(name))


def marks_before() -> tuple[int, dict[int, int]]:
    """Return the mask of the connection marks of the agent before us, and the slot of each of its marks; (0, {})
    without tables.
    """
    for name, chain in (("known_paths", "known_connected"), ("known_paths", "restore_path4"), ("stay", "leave4")):
        try:
            listed = run_tool(["nft", "list", "chain", *INET.split(), chain])
        except ToolFailed as error:
            if not error.absent:
                raise
            continue
        if mask := re.search(rf"ct mark & (0x[0-9a-f]+) vmap @{name}", listed):
            return int(mask[1], 16), {mark: OWN_SLOT if slot is None else slot for mark, slot in _leading(name)}
    return 0, {}


def _slots(name: str) -> Iterator[int]:
    return (slot for _, slot in _leading(name) if slot is not None)


def _leading(name: str) -> Iterator[tuple[Any, int | None]]:
    """Yield the keys of a map to chains with the slots in the chains' names, None for the chain of this node itself;
    the former build called them ``to_SLOT`` and ``own``.
    """
    for item in _raw(name, "map"):
        if isinstance(item, list) and isinstance(item[1], dict) and "goto" in item[1]:
            target = str(item[1]["goto"]["target"])
            kind, _, slot = target.partition("_")
            if kind in ("gateway", "to") and slot.isdecimal():
                yield item[0], int(slot)
            elif target in ("local_gateway", "own"):
                yield item[0], None


def dropped_packets() -> dict[str, int]:
    """Return the packets that each counter has seen, see drop_reasons; empty without tables."""
    return tables().totals(INET)


def _raw(name: str, kind: str) -> list[object]:
    try:
        listing = json.loads(run_tool(["nft", "-j", "list", kind, *INET.split(), name]))
    except ToolFailed as error:
        if not error.absent:
            # What is there is not known, and not nothing.
            raise
        return []
    for item in listing["nftables"]:
        if kind in item:
            return list(item[kind].get("elem", []))
    return []


def present() -> bool:
    """Return whether our tables are in the kernel, and the guard of the boot is not."""
    there = set(run_tool(["nft", "list", "tables"]).splitlines())
    return {f"table inet {TABLE}", f"table arp {TABLE}"} <= there and f"table inet {GUARD}" not in there
