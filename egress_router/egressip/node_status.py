"""The status of a node's agent as plain data."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from egress_router.egressip.holders import Holders
from egress_router.egressip.holdings import Holdings
from egress_router.egressip.view import View
from egress_router.model.egressip import Disposition
from egress_router.model.node import NodeState


def node_status(
    node: str,
    view: View,
    holders: Holders,
    holdings: Holdings,
    applied: NodeState,
    users: Collection[str],
    lacking: Collection[str],
    drops: Mapping[str, int],
) -> dict[str, object]:
    """Return all that the status shows. ``drops`` are packets by counter."""
    refused = {**holdings.refused, **holdings.misfits}
    mine = view.decision.nodes.get(node)
    return {
        "node": node,
        "ready": view.ready,
        "draining": view.draining,
        "problems": [*view.troubles, *map(str, view.problems)]
        + [f"{ip} is not claimed: {why}" for ip, why in sorted(refused.items())]
        + [
            f"{ip} is the address of two pods, {rivals[0]} and {rivals[1]}; its traffic is dropped until one is gone"
            for ip, rivals in sorted(applied.contested.items())
        ]
        + (list(mine.problems) if mine else []),
        "held": sorted(holdings.held),
        "users": sorted(users),
        "holders": {name: health.state.value for name, health in sorted(holders.health.items())},
        "lacking": sorted(lacking),
        "pods": len(applied.ways),
        "dropped_packets": dict(drops),
        "other_namespaces": sum(
            verdict.disposition is Disposition.NORMAL for verdict in list(view.decision.namespaces.values())
        ),
        "namespaces": {
            name: {
                "disposition": verdict.disposition.value,
                "via": [{"ip": via.ip, "node": via.node} for via in verdict.via],
                "reasons": list(verdict.reasons),
            }
            for name, verdict in list(view.decision.namespaces.items())
            if verdict.disposition is not Disposition.NORMAL
        },
    }
