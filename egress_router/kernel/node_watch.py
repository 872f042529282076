"""Hear when somebody deletes nft tables. See nfnetlink(7) and linux/netfilter/nf_tables.h."""

from __future__ import annotations

import socket
import struct

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_NFNL_SUBSYS_NFTABLES, _NFT_MSG_DELTABLE = 10, 2
_HEADER = struct.Struct("=IHHII")


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

    def table_deleted(self) -> bool:
        """Take in all notices; True when a table was deleted, or when notices were lost."""
        deleted = False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return deleted
            except OSError:
                # ENOBUFS: more happened than the socket could hold (netlink(7)).
                deleted = True
                continue
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
                deleted |= kind == _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_DELTABLE
                offset += max(_HEADER.size, (length + 3) & ~3)
