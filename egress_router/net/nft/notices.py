"""Notices of changes to nftables tables. See nfnetlink(7) and linux/netfilter/nf_tables.h (NFT_MSG_*)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

from egress_router.net.netlink import NETLINK_NETFILTER, attributes
from egress_router.net.oserror import translating

_NFNLGRP_NFTABLES = 7
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_NFNL_SUBSYS_NFTABLES = 10
_HEADER = struct.Struct("=IHHII")
#: The two heads, netlink's and netfilter's, that stand before the attributes.
_HEADS = _HEADER.size + 4
#: The name of the table comes under this number in notices of tables, chains, rules, sets and elements.
_NAME_OF_TABLE = 1
#: NFT_MSG_NEWCHAIN, DELCHAIN, NEWRULE, DELRULE
_CHAINS_AND_RULES = frozenset({3, 5, 6, 8})


class Heard(NamedTuple):
    """``tampered``: another process changed one of the tables. ``lost``: some notices did not come through. ``others``:
    another process changed chains or rules of other tables.
    """

    tampered: bool
    lost: bool
    others: bool = False


class NftWatch:
    """A netlink socket that is readable when nftables have changed; ``tables`` are names without their family."""

    def __init__(self, tables: Collection[str]) -> None:
        self._names = {f"{name}\0".encode() for name in tables}
        with translating("hear notices of nftables"):
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
            )
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def heard(self, own: Collection[int]) -> Heard:
        """Take in all notices. ``own`` are the processes whose changes are ours: notices bear the port of the sender's
        socket, which is its process number (netlink(7)).
        """
        tampered = lost = others = False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return Heard(tampered, lost, others)
            except OSError:
                # ENOBUFS: more happened than the socket could hold (netlink(7)).
                lost = True
                continue
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, _, _, port = _HEADER.unpack_from(data, offset)
                if kind >> 8 == _NFNL_SUBSYS_NFTABLES and port not in own:
                    ours = any(
                        type_ == _NAME_OF_TABLE and data[start:stop] in self._names
                        for type_, start, stop in attributes(data, offset + _HEADS, offset + length)
                    )
                    tampered |= ours
                    others |= not ours and kind & 0xFF in _CHAINS_AND_RULES
                offset += max(_HEADER.size, (length + 3) & ~3)
