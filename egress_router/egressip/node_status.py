"""The status of a node's agent as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Mapping
from typing import Any

from egress_router.egressip.health import Health
from egress_router.egressip.holders import Holders
from egress_router.egressip.holdings import Holdings
from egress_router.egressip.view import View
from egress_router.model.address_keys import address_key, address_text, family
from egress_router.model.egressip import Disposition, NamespaceDecision, NetNamespace
from egress_router.model.node import NodeState

#: What the decision takes for offline is not always down.
_OFFLINE = {
    Health.DRAINING: "hands over (node drain); it carries what is open and gets nothing new",
    Health.UNKNOWN: "has not answered yet",
    Health.DOWN: "does not answer, or its agent does not yet say that it is ready",
}
#: Of so many pods the connections are listed.
MOST_PODS = 20


def drain_status(
    view: View, held: Collection[str], draining: Container[str], left: Counter[str] | None, seconds: float, done: bool
) -> dict[str, Any]:
    """Return how far a hand-over is: connections (None: not counted yet), and the pods with most of them; for how many
    seconds they are waited for; whether it is done; namespaces whose other holders, in a family, are all ``draining``.
    """
    state = view.state
    names = {ip: f"{pod.namespace}/{pod.name}" for pod in state.pods.values() for ip in pod.ips if left and ip in left}
    most = sorted((left or Counter()).items(), key=lambda item: (-item[1], item[0]))[:MOST_PODS]
    return {
        "connections": None if left is None else left.total(),
        "pods": [{"pod": names.get(ip, "unknown"), "ip": ip, "connections": count} for ip, count in most],
        "seconds_left": round(seconds, 1),
        "done": done,
        "alone": sorted(
            name
            for name, verdict in view.decision.namespaces.items()
            if _alone(held, draining, state.namespaces.get(name), verdict)
        ),
    }


def _alone(
    held: Collection[str], draining: Container[str], space: NetNamespace | None, verdict: NamespaceDecision
) -> bool:
    if space is None:
        return False
    keys = (address_key(text) for text in space.egress_ips)
    here = {family(key) for key in keys if key is not None and address_text(key) in held}
    return bool(here - {6 if ":" in via.ip else 4 for via in verdict.via if via.node not in draining})


def _true_to(reason: str, words: Mapping[str, str]) -> str:
    """Return the reason with what this agent knows of a node instead of "is offline"."""
    head, node, offline = reason.partition(": node ")
    name = offline.removesuffix(" is offline")
    return f"{head}{node}{name} {words[name]}" if name != offline and name in words else reason


def node_status(
    node: str,
    view: View,
    holders: Holders,
    holdings: Holdings,
    applied: NodeState,
    users: Collection[str],
    lacking: Collection[str],
    drops: Mapping[str, int],
    drain: Mapping[str, object] | None = None,
    doubted: Mapping[str, Collection[str]] | None = None,
) -> dict[str, object]:
    """Return all that the status shows. ``drops`` are packets by counter, ``drain`` see ``drain_status``,
    ``doubted`` see ``Heirs``.
    """
    refused = {**holdings.refused, **holdings.misfits}
    mine = view.decision.nodes.get(node)
    words = {name: _OFFLINE[health.state] for name, health in holders.health.items() if health.state in _OFFLINE}
    if drain is not None:
        words[node] = _OFFLINE[Health.DRAINING]
    return {
        "node": node,
        "ready": view.ready,
        "draining": drain is not None,
        "drain": drain,
        "problems": [*view.troubles, *map(str, view.problems)]
        + [f"{ip} is not claimed: {why}" for ip, why in sorted(refused.items())]
        + [
            f"{ip} is the address of two pods, {rivals[0]} and {rivals[1]}; its traffic is dropped until one is gone"
            for ip, rivals in sorted(applied.contested.items())
        ]
        + [
            f"{ip} was another pod's or had another egress IP; not sent to {', '.join(sorted(nodes))} until the agent "
            "there says that it knows"
            for ip, nodes in sorted((doubted or {}).items())
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
                "reasons": [_true_to(reason, words) for reason in verdict.reasons],
            }
            for name, verdict in list(view.decision.namespaces.items())
            if verdict.disposition is not Disposition.NORMAL
        },
    }
