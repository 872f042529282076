"""Hear when somebody else changes our nft tables. See nfnetlink(7) and linux/netfilter/nf_tables.h."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

from egress_router.kernel.netlink import attributes
from egress_router.render.node_guard import GUARD
from egress_router.render.node_nft import TABLE

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
