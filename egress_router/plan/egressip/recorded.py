"""What a node's agent decides on: the objects with the recorded automatic assignment as if it were by hand.

Agents see different nodes as offline for moments. If each assigned addresses on its own, two nodes could hold one; so
they follow what is written down, and only what writes it down assigns.
"""

from __future__ import annotations

from dataclasses import replace

from egress_router.model.egressip import ClusterState


def with_recorded_assignment(state: ClusterState) -> ClusterState:
    """Return the state without egressCIDRs, and with every recorded address in its node's egressIPs. An address that
    some node lists by hand is not added: the listing by hand is newer.
    """
    by_hand = {ip for node in state.nodes.values() for ip in node.egress_ips}
    nodes = {
        name: replace(
            node,
            egress_cidrs=(),
            egress_ips=node.egress_ips + tuple(ip for ip in state.assignment.get(name, ()) if ip not in by_hand),
        )
        if node.egress_cidrs or name in state.assignment
        else node
        for name, node in state.nodes.items()
    }
    return replace(state, nodes=nodes)
