"""Can this kernel's nftables take established connections around the rules?

Asked of the kernel itself, by a transaction without an end (NFNL_MSG_BATCH_END): nfnetlink looks at all that stands in
it and undoes it, as for ``nft --check``. Nothing is left, nobody is told, and the generation stays.

See linux/netfilter/nf_tables.h (NFT_MSG_*, NFTA_FLOWTABLE_*, NFTA_FLOW_*, NFTA_FIB_*).
"""

from __future__ import annotations

import errno
import os
import struct

from egress_router.net.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    Netlink,
    NetlinkError,
    attribute,
)

_BATCH_BEGIN, _SUBSYSTEM = 0x10, 10
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _NEW_FLOWTABLE = 0xA00, 0xA03, 0xA06, 0xA16
_INET = struct.pack("=BBH", 1, 0, 0)
_NESTED = 0x8000
_PROBE = b"egress_router_probe\0"
#: NFT_REG32_00; NFT_FIB_RESULT_OIF; NFTA_FIB_F_SADDR, _IIF and _PRESENT.
_REGISTER, _INTERFACE, _FLAGS = 8, 1, 0x1 | 0x8 | 0x20
#: What kernels say of something that they do not have: a kind of message, of expression or of table; all of nftables.
_UNKNOWN = {errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT, errno.EINVAL, errno.EAFNOSUPPORT}
#: Kernels before Linux 5.15 forget a connection that a flow table had after two minutes without a packet, conntrack's
#: five days or not. They have no TIMEOUT, or (5.14) a PICKUP beside it; see the kernel's nf_conntrack-sysctl.rst.
SYSCTLS = "/proc/sys/net/netfilter"
TIMEOUT, PICKUP = "nf_flowtable_tcp_timeout", "nf_flowtable_tcp_pickup"


def why_no_flow_table() -> str:
    """Return why this kernel has no flow tables for us, in its own words; empty where it has. Takes a fraction of a
    millisecond, more where the kernel has to load modules. Raises CapabilityError without NET_ADMIN.
    """
    with Netlink(NETLINK_NETFILTER) as netlink:
        for what, messages in _steps():
            try:
                netlink.change_all([_begin(), *messages], f"ask for {what}")
            except NetlinkError as error:
                if error.code not in _UNKNOWN:
                    raise
                return f"this kernel has no {what} ({errno.errorcode[error.code]})"
    # Now that all of it is loaded.
    if not _has(TIMEOUT) or _has(PICKUP):
        return "this kernel may forget connections that were in a flow table after two minutes (before Linux 5.15)"
    return ""


def _has(sysctl: str) -> bool:
    return os.access(f"{SYSCTLS}/{sysctl}", os.F_OK)


def _steps() -> list[tuple[str, list[tuple[int, int, bytes]]]]:
    """Return what is asked for, one after the other, so that what is missing has a name."""
    named = attribute(1, _PROBE)
    # NFTA_TABLE_NAME; NFTA_FLOWTABLE_TABLE, _NAME and _HOOK with number (ingress), priority and devices.
    table = (_NEW_TABLE, NLM_F_CREATE, _INET + named)
    device = attribute(3 | _NESTED, attribute(1, b"lo\0"))
    hook = attribute(3 | _NESTED, _number(1, 0) + _number(2, 0) + device)
    flowtable = (_NEW_FLOWTABLE, NLM_F_CREATE, _INET + named + attribute(2, _PROBE) + hook)
    # NFTA_CHAIN_TABLE and _NAME; NFTA_RULE_TABLE, _CHAIN and _EXPRESSIONS.
    chain = (_NEW_CHAIN, NLM_F_CREATE, _INET + named + attribute(3, _PROBE))
    way_back = _expression("fib", _number(1, _REGISTER) + _number(2, _INTERFACE) + _number(3, _FLAGS))
    add = _expression("flow_offload", attribute(1, _PROBE))
    return [
        ("flow tables for nftables (nf_flow_table_inet)", [table, _answered(flowtable)]),
        ("look-ups of routes for nftables (nft_fib_inet)", [table, chain, _rule(named, way_back)]),
        ("rules that use flow tables (nft_flow_offload)", [table, flowtable, chain, _rule(named, add)]),
    ]


def _rule(named: bytes, expression: bytes) -> tuple[int, int, bytes]:
    body = _INET + named + attribute(2, _PROBE) + attribute(4 | _NESTED, expression)
    return _NEW_RULE, NLM_F_CREATE | NLM_F_ACK, body


def _answered(message: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    type_, flags, body = message
    return type_, flags | NLM_F_ACK, body


def _begin() -> tuple[int, int, bytes]:
    return _BATCH_BEGIN, 0, struct.pack("=BBH", 0, 0, _SUBSYSTEM << 8)


def _expression(name: str, data: bytes) -> bytes:
    """Return NFTA_LIST_ELEM with NFTA_EXPR_NAME and NFTA_EXPR_DATA."""
    return attribute(1 | _NESTED, attribute(1, name.encode() + b"\0") + attribute(2 | _NESTED, data))


def _number(type_: int, value: int) -> bytes:
    return attribute(type_, struct.pack("!I", value))
