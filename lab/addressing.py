"""The lab's addresses: documentation ranges only (RFC 5737, RFC 3849)."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: The network that nodes, gateway and other machines share.
LAN: dict[int, Network] = {4: IPv4Network("192.0.2.0/24"), 6: IPv6Network("2001:db8:2::/64")}
#: What lies behind the gateway.
EXTERNAL: dict[int, Network] = {4: IPv4Network("203.0.113.0/24"), 6: IPv6Network("2001:db8:113::/64")}
#: All pods; every node owns a part, see pod_subnet().
PODS: dict[int, Network] = {4: IPv4Network("198.51.100.0/24"), 6: IPv6Network("2001:db8:a::/48")}

FAMILIES: tuple[int, ...] = (4, 6)

GATEWAY = 1
DNS = 53
FIRST_NODE = 11
SERVICES = (25, 26, 27)

MAX_NODES = 8
#: Usable pod addresses of a /27, its first one being the node's bridge.
MAX_PODS_PER_NODE = 29


def numbered(network: Network, number: int) -> Address:
    """Return the address of ``network`` that ends in ``number`` as a person reads it.

    ``numbered(LAN[4], 11)`` is 192.0.2.11 and ``numbered(LAN[6], 11)`` is 2001:db8:2::11 (hexadecimal 0x11).
    """
    return network[number] if network.version == 4 else network[int(str(number), 16)]


def pod_subnet(node: int, family: int) -> Network:
    """Return the pod network of node ``node`` (0-based): a /27 or a /64."""
    if family == 4:
        return IPv4Network((int(PODS[4][0]) + 32 * node, 27))
    return IPv6Network((int(PODS[6][0]) + ((node + 1) << 64), 64))


def parse(address: Address | str) -> Address:
    """Return ``address`` as an object; ValueError when it is not one."""
    return ip_address(address) if isinstance(address, str) else address


@lru_cache(maxsize=4096)
def is_outside(address: Address) -> bool:
    """Tell whether a packet to ``address`` leaves the cluster: not LAN, pod, multicast, broadcast or link-local."""
    if address.is_multicast or address.is_link_local or address.is_unspecified:
        return False
    if address == IPv4Address("255.255.255.255"):
        return False
    return address not in LAN[address.version] and address not in PODS[address.version]
