"""The agent's nft tables: loaded, read back after a restart, and watched."""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from egress_router.egressip.node.guard import GUARD
from egress_router.egressip.node.nft_rules import TABLE
from egress_router.errors import ToolFailed
from egress_router.net.netlink import attributes
from egress_router.net.process import run_tool

# Load the agent's nft tables, and read back what a restarted agent must know. See nft(8).

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


# Hear when somebody else changes our nft tables. See nfnetlink(7) and linux/netfilter/nf_tables.h.

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_NFNL_SUBSYS_NFTABLES = 10
_HEADER = struct.Struct("=IHHII")
#: The two heads, netlink's and netfilter's, that stand before the attributes.
_HEADS = _HEADER.size + 4
#: The name of the table comes under this number in notices of tables, chains, rules, sets and elements.
_NAME_OF_TABLE = 1
_OURS = {f"{name}\0".encode() for name in (TABLE, GUARD)}


class Heard(NamedTuple):
    """``tampered``: another process changed our tables or the guard. ``lost``: some notices did not come through."""

    tampered: bool
    lost: bool


class TableWatch:
    """A netlink socket that is readable when nft tables, rules or elements have changed."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def heard(self, own: Collection[int]) -> Heard:
        """Take in all notices. ``own`` are the processes whose changes are ours: notices bear the port of the sender's
        socket, which is its process number (netlink(7)).
        """
        tampered = lost = False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return Heard(tampered, lost)
            except OSError:
                # ENOBUFS: more happened than the socket could hold (netlink(7)).
                lost = True
                continue
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, _, _, port = _HEADER.unpack_from(data, offset)
                if kind >> 8 == _NFNL_SUBSYS_NFTABLES and port not in own:
                    tampered |= any(
                        type_ == _NAME_OF_TABLE and data[start:stop] in _OURS
                        for type_, start, stop in attributes(data, offset + _HEADS, offset + length)
                    )
                offset += max(_HEADER.size, (length + 3) & ~3)
