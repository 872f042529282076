"""Egress IPs on the node's outside interface. See ip-address(8)."""

from __future__ import annotations

import errno
import socket

from egress_router.kernel.codecs import ifaddrmsg
from egress_router.kernel.links import RTM_DELADDR, RTM_NEWADDR
from egress_router.kernel.netlink import NLM_F_CREATE, NLM_F_REPLACE, Netlink, NetlinkError
from egress_router.kernel.observe import RTM_GETADDR
from egress_router.model.network import Link
from egress_router.model.node import NODE_PROTOCOL

#: Interface names and labels have at most this many characters.
_MAX_NAME = 15
_IFA_F_NODAD = 0x02
_FOREVER = 0xFFFFFFFF


def add_egress_ip(netlink: Netlink, link: Link, text: str) -> None:
    """Put an address on the interface as a host address, deprecated from the start: so the node never chooses it as the
    source of its own connections (RFC 6724, rule 3), and neither does masquerading.
    """
    request = _request(link, text)
    request["flags"] = _IFA_F_NODAD if ":" in text else 0
    if ":" not in text:
        request["attrs"].append(("IFA_LABEL", _label(link)))
    request["attrs"].append(("IFA_PROTO", NODE_PROTOCOL))
    request["attrs"].append(("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": _FOREVER, "cstamp": 0, "tstamp": 0}))
    netlink.change(request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, f"add {text} to {link.name}")


def egress_ips(netlink: Netlink, link: Link) -> frozenset[str]:
    """Return the addresses on the interface that an agent has put there, whatever became of its tables: by their label
    (IPv4), or by their protocol number, which kernels keep since Linux 5.18.
    """
    found = set()
    for message in netlink.dump(ifaddrmsg(), RTM_GETADDR, "list the addresses"):
        ours = message.get_attr("IFA_LABEL") == _label(link) or message.get_attr("IFA_PROTO") == NODE_PROTOCOL
        if message["index"] == link.index and ours:
            found.add(str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")))
    return frozenset(found)


def _label(link: Link) -> str:
    return f"{link.name}:egress"[:_MAX_NAME]


def remove_egress_ip(netlink: Netlink, link: Link, text: str) -> None:
    """Take an address off the interface; one that is gone already is fine."""
    try:
        netlink.change(_request(link, text), RTM_DELADDR, 0, f"remove {text} from {link.name}")
    except NetlinkError as error:
        if error.code != errno.EADDRNOTAVAIL:
            raise


def _request(link: Link, text: str) -> ifaddrmsg:
    request = ifaddrmsg()
    request["family"] = socket.AF_INET6 if ":" in text else socket.AF_INET
    request["index"] = link.index
    request["prefixlen"] = 128 if ":" in text else 32
    request["attrs"] = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]
    return request
