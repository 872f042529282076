"""The VXLAN device to the other holders, and who is reached where behind it. See ip-link(8), bridge(8), RFC 7348.

The device learns nothing. Every node's MAC follows from its address, so a neighbour entry and a forwarding entry per
holder are all there is, and they never have to be agreed upon.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from ipaddress import IPv4Interface, IPv6Address, IPv6Network, ip_address

from egress_router.config.values import Address
from egress_router.egressip.node.state import ENCRYPTION_OVERHEAD, TUNNEL, TUNNEL_ID, TUNNEL_OVERHEAD, Gateway
from egress_router.errors import TryAgainError
from egress_router.net.rtnetlink.kernel import RouteNetlink
from egress_router.net.rtnetlink.values import ForwardingEntry, Link, LinkAddress, Neighbour, Sysctl, Vxlan
from egress_router.net.sysctl import read_sysctl, set_sysctl

#: An address that never leaves the device.
_OWN_ADDRESS = IPv4Interface("169.254.147.90/32")
#: Nodes' ends of an encrypted tunnel: unique local addresses (RFC 4193).
INSIDE = IPv6Network("fd5c:90be:147a:4790::/64")


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


def inside_address(host_ip: str) -> IPv6Address:
    """Return a node's end of the tunnel where that is encrypted, from the node's address."""
    digest = blake2b(ip_address(host_ip).packed, digest_size=8).digest()
    return IPv6Address(INSIDE.network_address.packed[:8] + digest)


def tunnel_end(host_ip: str, *, encrypted: bool) -> Address:
    """Return the address of a node that the packets of the tunnel go to."""
    return inside_address(host_ip) if encrypted else ip_address(host_ip)


def encrypted_mtu(underlay: int, host_ip: str) -> int:
    """Return the MTU of the device that encrypts, from that of the interface between the nodes."""
    return underlay - ENCRYPTION_OVERHEAD[ip_address(host_ip).version]


def tunnel_mtu(underlay: int, host_ip: str, *, encrypted: bool) -> int:
    """Return the size of the largest packet that goes through the tunnel, from the MTU between the nodes; bytes."""
    if encrypted:
        return encrypted_mtu(underlay, host_ip) - TUNNEL_OVERHEAD[INSIDE.version]
    return underlay - TUNNEL_OVERHEAD[ip_address(host_ip).version]


def wanted_tunnel(host_ip: str, underlay: Link, port: int, *, encrypted: bool = False) -> tuple[str, int, Vxlan]:
    """Return MAC, MTU and encapsulation of this node's end of the tunnel."""
    return (
        tunnel_mac(host_ip),
        tunnel_mtu(underlay.mtu, host_ip, encrypted=encrypted),
        Vxlan(TUNNEL_ID, port, tunnel_end(host_ip, encrypted=encrypted)),
    )


def ensure_tunnel(
    kernel: RouteNetlink, host_ip: str, underlay: Link, port: int, *, encrypted: bool = False
) -> tuple[Link, list[str]]:
    """Return the tunnel device on UDP ``port``, up, and what differed, a line each; made anew when it is not as it
    should be. Raises EgressRouterError.
    """
    mac, mtu, vxlan = wanted_tunnel(host_ip, underlay, port, encrypted=encrypted)
    lines = []
    link = kernel.link(TUNNEL)
    if link is not None and (link.mac, link.mtu, link.vxlan) != (mac, mtu, vxlan):
        lines.append(f"+ link {link} with MAC {link.mac}, MTU {link.mtu}, {link.vxlan or 'no VXLAN'}")
        kernel.remove_link(link)
        link = None
    if link is None:
        lines.append(f"- link {TUNNEL}")
        kernel.create_vxlan(TUNNEL, mac, mtu, vxlan)
        link = kernel.link(TUNNEL)
        if link is None:
            raise TryAgainError(f"{TUNNEL} was made and is gone: something else removes it")
    elif not link.up:
        lines.append(f"- link {TUNNEL} up")
    if not link.up:
        kernel.without_own_addresses(link)
        kernel.set_up(link)
    own = LinkAddress(TUNNEL, _OWN_ADDRESS, global_scope=False)
    if own not in kernel.addresses(link):
        lines.append(f"- {own}")
        kernel.add_address(link, own)
    # Loose: what comes out of the tunnel starts at pods that are routed elsewhere (ip-sysctl, rp_filter). That needs an
    # address on the device: without one, the kernel takes loose for strict (fib_validate_source).
    loose = Sysctl(f"net/ipv4/conf/{TUNNEL}/rp_filter", 2, required=False)
    if read_sysctl(loose) not in (None, loose.value):
        lines.append(f"- {loose}")
    set_sysctl(loose, kernel, link)
    return link, lines


def set_peers(kernel: RouteNetlink, tunnel: Link, gateways: Iterable[Gateway], *, encrypted: bool = False) -> list[str]:
    """Make the neighbour and forwarding entries of the tunnel exactly those of the gateways; return what differed, a
    line each. Raises EgressRouterError.
    """
    wanted: set[Neighbour | ForwardingEntry] = set()
    for gateway in gateways:
        mac = tunnel_mac(gateway.host_ip)
        wanted.add(ForwardingEntry(mac, tunnel_end(gateway.host_ip, encrypted=encrypted)))
        wanted.update(Neighbour(ip_address(tunnel_gateway(gateway.host_ip, version)), mac) for version in (4, 6))
    present: set[Neighbour | ForwardingEntry] = {*kernel.neighbours(tunnel), *kernel.forwarding(tunnel)}
    missing, extra = sorted(wanted - present, key=str), sorted(present - wanted, key=str)
    for entry in missing:
        kernel.set_neighbour(tunnel, entry)
    replaced = {_key(entry) for entry in missing}
    for entry in extra:
        if _key(entry) not in replaced:
            kernel.remove_neighbour(tunnel, entry)
    return [*(f"- {entry}" for entry in missing), *(f"+ {entry}" for entry in extra)]


def _key(entry: Neighbour | ForwardingEntry) -> object:
    """Return what the kernel tells entries apart by. A forwarding entry may have several destinations."""
    return entry.address if isinstance(entry, Neighbour) else entry
