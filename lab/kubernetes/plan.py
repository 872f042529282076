"""Addresses and names of a cluster; all clusters have the same, since each has a network of its own.

    api  192.0.2.10  ─┐
    node-1 192.0.2.11 ┤  switch  ┌ outside 192.0.2.1: every node's default route; servers 203.0.113.25 to .27
    node-2 192.0.2.12 ┴──────────┘

The same with IPv6 (2001:db8:2::/64, 2001:db8:113::/64). Documentation ranges (RFC 5737, RFC 3849), as in the other lab.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from lab.kubernetes.errors import UsageError

API, OUTSIDE, SWITCH = "api", "outside", "switch"
PODS4, PODS6 = "10.128.0.0/14", "fd01::/48"
#: Prefix lengths of what one node has of these.
NODE_PODS4, NODE_PODS6 = 24, 64
LAN4, LAN6 = ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8:2::/64")
SERVERS = ("203.0.113.25", "203.0.113.26", "203.0.113.27", "2001:db8:113::25", "2001:db8:113::26", "2001:db8:113::27")
DNS_SERVICE = "172.30.0.10"
CNIS = ("bridge", "kube-router", "none")
PROXIES = ("nftables", "iptables")
MAX_NODES = 20
#: The last part of addresses on the LAN.
OUTSIDE_HOST, API_HOST, FIRST_NODE_HOST = 1, 10, 11


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cluster shall be.

    ``node_grace`` is how long a node may be silent until it is Unknown, in seconds. With ``attachments`` pods get the
    further networks that NetworkAttachmentDefinitions describe (with the bridge CNI).
    """

    nodes: int = 3
    cni: str = "bridge"
    kube: str = "1.37.2"
    proxy: str = "nftables"
    node_grace: int = 40
    attachments: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 1 <= self.nodes <= MAX_NODES:
            raise UsageError(f"{self.nodes} nodes: 1 to {MAX_NODES} are possible")
        if self.cni not in CNIS:
            raise UsageError(f"no CNI {self.cni}: there are {', '.join(CNIS)}")
        if self.proxy not in PROXIES:
            raise UsageError(f"no mode of kube-proxy {self.proxy}: there are {', '.join(PROXIES)}")
        if self.attachments and self.cni != "bridge":
            raise UsageError("network attachments come with --cni bridge")

    @property
    def node_names(self) -> list[str]:
        """node-1, node-2, ..."""
        return [f"node-{number + 1}" for number in range(self.nodes)]

    @property
    def pod_ranges(self) -> dict[str, tuple[str, str]]:
        """The podCIDRs of each node, as the controller-manager would give them to nodes that come in this order."""
        size4, size6 = 2 ** (32 - NODE_PODS4), 2 ** (128 - NODE_PODS6)
        first4, first6 = (ipaddress.ip_network(pods).network_address for pods in (PODS4, PODS6))
        return {
            name: (f"{first4 + number * size4}/{NODE_PODS4}", f"{first6 + number * size6}/{NODE_PODS6}")
            for number, name in enumerate(self.node_names)
        }

    @property
    def joined(self) -> dict[str, int]:
        """Every machine on the LAN, with the last part of its address."""
        nodes = {name: FIRST_NODE_HOST + number for number, name in enumerate(self.node_names)}
        return {OUTSIDE: OUTSIDE_HOST, API: API_HOST} | nodes


def address4(host: int) -> str:
    """Return an IPv4 address on the LAN, such as 192.0.2.11."""
    return str(LAN4[host])


def address6(host: int) -> str:
    """Return an IPv6 address on the LAN whose end reads as the IPv4 one's does, such as 2001:db8:2::11."""
    return str(LAN6[int(str(host), 16)])
