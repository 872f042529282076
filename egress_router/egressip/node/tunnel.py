"""The VXLAN device to the other holders, and who is reached where behind it. See ip-link(8), bridge(8), RFC 7348.

The device learns nothing. Every node's MAC follows from its address, so a neighbour entry and a forwarding entry per
holder are all there is, and they never have to be agreed upon.
"""

from __future__ import annotations

import errno
import socket
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Any

from egress_router.egressip.node.state import TUNNEL, TUNNEL_ID, TUNNEL_OVERHEAD, TUNNEL_PORT, Gateway
from egress_router.net.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    NetlinkError,
    ifaddrmsg,
    ifinfmsg,
    ndmsg,
)
from egress_router.net.rtnetlink.links import RTM_NEWADDR, RTM_NEWLINK, prepare, set_up
from egress_router.net.rtnetlink.read import read_links
from egress_router.net.rtnetlink.values import Link, Sysctl
from egress_router.net.sysctl import set_sysctl

_RTM_DELLINK, _RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 17, 28, 29, 30
_NUD_PERMANENT, _NUD_NOARP = 0x80, 0x40
_NTF_SELF = 0x02
_SCOPE_HOST = 254
_OWN_ADDRESS = "169.254.147.90"


def tunnel_mac(host_ip: str) -> str:
    """Return the MAC of a node's end of the tunnel: local, unicast, from the node's address."""
    digest = blake2b(ip_address(host_ip).packed, digest_size=5).digest()
    return ":".join(f"{byte:02x}" for byte in (0x0A, *digest))


def tunnel_gateway(host_ip: str, version: int) -> str:
    """Return the next hop that stands for a node in the holders' tables; it only exists as a neighbour entry."""
    digest = blake2b(ip_address(host_ip).packed, digest_size=8).digest()
    if version == 6:
        return str(IPv6Address(b"\xfe\x80" + bytes(6) + digest))
    # The entry is known to this device alone, so the node's own address can stand there a second time.
    own = ip_address(host_ip)
    return str(own) if own.version == 4 else f"169.254.{digest[0]}.{digest[1]}"


def ensure_tunnel(netlink: Netlink, host_ip: str, underlay: Link) -> Link:
    """Return the tunnel device, up; made anew when it is not as it should be. Raises NetlinkError."""
    mtu = underlay.mtu - TUNNEL_OVERHEAD[ip_address(host_ip).version]
    for message in netlink.dump(ifinfmsg(), 18, "list the interfaces"):
        if message.get_attr("IFLA_IFNAME") != TUNNEL:
            continue
        info = message.get_attr("IFLA_LINKINFO")
        data: Any = info.get_attr("IFLA_INFO_DATA") if info else None
        same = (
            data is not None
            and info.get_attr("IFLA_INFO_KIND") == "vxlan"
            and data.get_attr("IFLA_VXLAN_ID") == TUNNEL_ID
            and data.get_attr("IFLA_VXLAN_PORT") == TUNNEL_PORT
            and host_ip in (data.get_attr("IFLA_VXLAN_LOCAL"), data.get_attr("IFLA_VXLAN_LOCAL6"))
            and message.get_attr("IFLA_ADDRESS") == tunnel_mac(host_ip)
            and message.get_attr("IFLA_MTU") == mtu
        )
        if not same:
            remove_tunnel(netlink, message["index"])
    link = _find(netlink)
    if link is None:
        _create(netlink, host_ip, mtu)
        link = _find(netlink)
        assert link is not None  # noqa: S101 - just created
    if not link.up:
        prepare(netlink, link)
        set_up(netlink, link)
    _address(netlink, link)
    # Loose: what comes out of the tunnel starts at pods that are routed elsewhere (ip-sysctl, rp_filter). That needs an
    # address on the device: without one, the kernel takes loose for strict (fib_validate_source).
    set_sysctl(Sysctl(f"net/ipv4/conf/{TUNNEL}/rp_filter", 2, required=False), netlink, link)
    return link


def _address(netlink: Netlink, link: Link) -> None:
    """Give the device an address that never leaves it."""
    request = ifaddrmsg()
    request["family"] = socket.AF_INET
    request["index"] = link.index
    request["prefixlen"] = 32
    request["scope"] = _SCOPE_HOST
    request["attrs"] = [("IFA_LOCAL", _OWN_ADDRESS), ("IFA_ADDRESS", _OWN_ADDRESS)]
    netlink.change(request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, f"add {_OWN_ADDRESS} to {TUNNEL}")


def remove_tunnel(netlink: Netlink, index: int) -> None:
    """Remove the device by its index. Raises NetlinkError."""
    request = ifinfmsg()
    request["index"] = index
    netlink.change(request, _RTM_DELLINK, 0, f"remove {TUNNEL}")


def _find(netlink: Netlink) -> Link | None:
    return next((link for link in read_links(netlink) if link.name == TUNNEL), None)


def _create(netlink: Netlink, host_ip: str, mtu: int) -> None:
    local = "IFLA_VXLAN_LOCAL6" if ip_address(host_ip).version == 6 else "IFLA_VXLAN_LOCAL"
    request = ifinfmsg()
    request["attrs"] = [
        ("IFLA_IFNAME", TUNNEL),
        ("IFLA_MTU", mtu),
        ("IFLA_ADDRESS", tunnel_mac(host_ip)),
        (
            "IFLA_LINKINFO",
            {
                "attrs": [
                    ("IFLA_INFO_KIND", "vxlan"),
                    (
                        "IFLA_INFO_DATA",
                        {
                            "attrs": [
                                ("IFLA_VXLAN_ID", TUNNEL_ID),
                                (local, host_ip),
                                ("IFLA_VXLAN_PORT", TUNNEL_PORT),
                                ("IFLA_VXLAN_LEARNING", 0),
                            ]
                        },
                    ),
                ]
            },
        ),
    ]
    netlink.change(request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, f"create {TUNNEL}")


def set_peers(netlink: Netlink, tunnel: Link, holders: tuple[Gateway, ...]) -> None:
    """Make the neighbour and forwarding entries of the tunnel exactly those of the holders. Raises NetlinkError."""
    wanted: set[tuple[int, str, str]] = set()
    for holder in holders:
        mac = tunnel_mac(holder.host_ip)
        wanted.add((socket.AF_BRIDGE, mac, holder.host_ip))
        for version, af in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            wanted.add((int(af), tunnel_gateway(holder.host_ip, version), mac))
    present = _entries(netlink, tunnel)
    for entry in sorted(wanted - present):
        _neighbour(netlink, tunnel, entry, _RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)
    for entry in sorted(present - wanted):
        try:
            _neighbour(netlink, tunnel, entry, _RTM_DELNEIGH, 0)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise


def _entries(netlink: Netlink, tunnel: Link) -> set[tuple[int, str, str]]:
    found = set()
    for af in (socket.AF_INET, socket.AF_INET6, socket.AF_BRIDGE):
        request = ndmsg()
        request["family"] = af
        if af != socket.AF_BRIDGE:
            request["attrs"] = [("NDA_IFINDEX", tunnel.index)]
        for message in netlink.dump(request, _RTM_GETNEIGH, "list the neighbours"):
            if message["ifindex"] != tunnel.index or not message["state"] & _NUD_PERMANENT:
                continue
            mac = message.get_attr("NDA_LLADDR")
            target = message.get_attr("NDA_DST")
            if mac is not None and target is not None:
                found.add((int(af), mac, target) if af == socket.AF_BRIDGE else (int(af), target, mac))
    return found


def _neighbour(netlink: Netlink, tunnel: Link, entry: tuple[int, str, str], type_: int, flags: int) -> None:
    af, first, second = entry
    bridge = af == socket.AF_BRIDGE
    request = ndmsg()
    request["family"] = af
    request["ifindex"] = tunnel.index
    request["state"] = _NUD_PERMANENT | (_NUD_NOARP if bridge else 0)
    request["flags"] = _NTF_SELF if bridge else 0
    mac, target = (first, second) if bridge else (second, first)
    request["attrs"] = [("NDA_DST", target), ("NDA_LLADDR", mac)]
    netlink.change(request, type_, flags, f"neighbour {target} at {mac} on {tunnel.name}")
