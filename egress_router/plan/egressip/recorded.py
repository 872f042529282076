"""What a node's agent decides on: the objects with the recorded automatic assignment as if it were by hand.

Agents see different nodes as offline for moments. If each assigned addresses on its own, two nodes could hold one; so
they follow what is written down, and only what writes it down assigns.
"""

from __future__ import annotations

from dataclasses import replace

from egress_router.model.address_keys import address_key, address_text
from egress_router.model.egressip import ClusterState, HostSubnet


def with_recorded_assignment(state: ClusterState) -> ClusterState:
    """Return the state without egressCIDRs, with every recorded address in its node's egressIPs, and with hostIPs in
    their canonical form. An address that some node lists by hand is not added: the listing by hand is newer.
    """
    by_hand = {address_key(ip) for node in state.nodes.values() for ip in node.egress_ips}

    def followed(name: str, node: HostSubnet) -> HostSubnet:
        recorded = tuple(ip for ip in state.assignment.get(name, ()) if address_key(ip) not in by_hand)
        key = address_key(node.host_ip)
        host_ip = node.host_ip if key is None else address_text(key)
        if not recorded and not node.egress_cidrs and host_ip == node.host_ip:
            return node
        return replace(node, host_ip=host_ip, egress_cidrs=(), egress_ips=node.egress_ips + recorded)

    return replace(state, nodes={name: followed(name, node) for name, node in state.nodes.items()})
