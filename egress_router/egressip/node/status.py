"""The status of a node's agent: what it knows, as plain data, and as text with the problems first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from egress_router.daemon.endpoint import bounded
from egress_router.egressip.api import (
    ClusterState,
    Decision,
    Disposition,
    NamespaceDecision,
    NetNamespace,
    address_key,
    address_text,
    family,
)
from egress_router.egressip.assignment.decision import reached_directly
from egress_router.egressip.health import Health
from egress_router.egressip.node.drop_reasons import DROPS
from egress_router.egressip.node.gateways import Gateways, LocalAssignments
from egress_router.egressip.node.replication import Figures
from egress_router.egressip.node.state import NodeState
from egress_router.errors import Problem


@dataclass(slots=True)
class AgentStatus:
    """What an agent knows at a moment, and what has happened since it started; status and metrics show it. Times are
    seconds. ``errors`` say why the last change was not applied, ``tampering`` who undoes the repairs,
    ``obstacles`` what other programs keep from going through the tunnel.
    """

    state: ClusterState = field(default_factory=ClusterState)
    decision: Decision = field(default_factory=lambda: Decision({}, {}, {}))
    problems: tuple[Problem, ...] = ()
    errors: list[str] = field(default_factory=list)
    tampering: str = ""
    obstacles: list[str] = field(default_factory=list)
    ready: bool = False
    applies: int = 0
    failed_applies: int = 0
    apply_seconds: float = 0.0
    repairs: int = 0


#: What the decision takes for offline is not always down.
_OFFLINE = {
    Health.DRAINING: "hands over (node drain); it carries what is open and gets nothing new",
    Health.UNKNOWN: "has not answered yet",
    Health.DOWN: "does not answer, or its agent does not yet say that it is ready",
}
#: Of so many pods the connections are listed.
MOST_PODS = 20


def drain_status(
    known: AgentStatus,
    held: Collection[str],
    draining: Container[str],
    left: Counter[str] | None,
    seconds: float,
    done: bool,
    leaving: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Return how far a drain is: connections (None: not counted yet), and the pods with most of them; for how many
    seconds they are waited for; whether it is done; namespaces whose other holders, in a family, are all ``draining``;
    the addresses that are still here and are ``leaving`` for other nodes, with which no namespace is left alone.
    """
    state = known.state
    names = {ip: f"{pod.namespace}/{pod.name}" for pod in state.pods.values() for ip in pod.ips if left and ip in left}
    most = sorted((left or Counter()).items(), key=lambda item: (-item[1], item[0]))[:MOST_PODS]
    return {
        "connections": None if left is None else left.total(),
        "pods": [{"pod": names.get(ip, "unknown"), "ip": ip, "connections": count} for ip, count in most],
        "seconds_left": round(seconds, 1),
        "done": done,
        "alone": sorted(
            name
            for name, verdict in known.decision.namespaces.items()
            if _alone(frozenset(held) - leaving, draining, state.namespaces.get(name), verdict)
        ),
        "leaving": sorted(leaving),
    }


def _alone(
    held: Collection[str], draining: Container[str], space: NetNamespace | None, verdict: NamespaceDecision
) -> bool:
    if space is None:
        return False
    keys = (address_key(text) for text in space.egress_ips)
    here = {family(key) for key in keys if key is not None and address_text(key) in held}
    return bool(here - {6 if ":" in via.ip else 4 for via in verdict.via if via.node not in draining})


def standby_status(
    held: Mapping[str, str], spare: Mapping[str, str], figures: Figures, taken_over: int, led: int
) -> dict[str, object]:
    """Return who stands by for the addresses ``held`` here, and whose addresses this node takes over (``spare``), by
    address; how many connections others have told of, and have been told; whether the standbys are reached and for how
    many seconds they lag; how many connections went on here, and by another node, after their holder had gone.
    """
    return {
        "standbys": dict(sorted(held.items())),
        "stands_by_for": dict(sorted(spare.items())),
        "kept": figures.kept,
        "told": figures.told,
        "connected": dict(figures.connected),
        "lag_seconds": {peer: round(lag, 3) for peer, lag in figures.lag.items()},
        "error": figures.error,
        "taken_over": taken_over,
        "led_elsewhere": led,
    }


def canonical_ip(text: str) -> str:
    """Return an address as the kernel spells it; what is none as it is."""
    try:
        return str(ip_address(text))
    except ValueError:
        return text


def _with_known_state(reason: str, words: Mapping[str, str]) -> str:
    """Return the reason with what this agent knows of a node instead of "is offline"."""
    head, node, offline = reason.partition(": node ")
    name = offline.removesuffix(" is offline")
    return f"{head}{node}{name} {words[name]}" if name != offline and name in words else reason


def node_status(
    node: str,
    known: AgentStatus,
    gateways: Gateways,
    local: LocalAssignments,
    applied: NodeState,
    users: Collection[str],
    pending: Collection[str],
    drops: Mapping[str, int],
    drain: Mapping[str, object] | None = None,
    more: Collection[str] = (),
    unconfirmed: Mapping[str, Collection[str]] | None = None,
    standby: Mapping[str, object] | None = None,
    *,
    tells_of_pods: bool = False,
) -> dict[str, object]:
    """Return all that the status shows. ``drops`` are packets by counter, ``drain`` see ``drain_status``, ``more`` are
    further problems, ``unconfirmed`` see ``ReassignmentGuard``, ``standby`` see ``standby_status``. ``tells_of_pods``:
    the container runtime does, before they start.
    """
    unclaimed = {**local.duplicates, **local.outside_subnets}
    mine = known.decision.nodes.get(node)
    words = {name: _OFFLINE[health.state] for name, health in gateways.health.items() if health.state in _OFFLINE}
    if drain is not None:
        words[node] = _OFFLINE[Health.DRAINING]
    problems = [
        *known.errors,
        *filter(None, [known.tampering]),
        *known.obstacles,
        *more,
        *map(str, known.problems),
        *(f"{ip} is not claimed: {why}" for ip, why in sorted(unclaimed.items())),
        *(
            f"{ip} is the address of two pods, {one} and {other}; its traffic is dropped until one is gone"
            for ip, (one, other) in sorted(applied.duplicate_pod_ips.items())
        ),
        *(
            f"{ip} was another pod's or had another egress IP; not sent to {', '.join(sorted(nodes))} until the agent "
            "there says that it knows"
            for ip, nodes in sorted((unconfirmed or {}).items())
        ),
        *(mine.problems if mine else ()),
    ]
    return {
        "node": node,
        "ready": known.ready,
        "draining": drain is not None,
        "drain": drain,
        "problems": bounded(problems),
        "held": sorted(local.assigned),
        "users": sorted(users),
        "holders": {name: health.state.value for name, health in sorted(gateways.health.items())},
        "lacking": sorted(pending),
        "standby": standby or {},
        "pods": len(applied.paths),
        "container_runtime": tells_of_pods,
        "dropped_packets": dict(drops),
        "other_namespaces": sum(
            verdict.disposition is Disposition.NORMAL for verdict in list(known.decision.namespaces.values())
        ),
        "namespaces": {
            name: {
                "disposition": verdict.disposition.value,
                "via": [{"ip": via.ip, "node": via.node} for via in verdict.via],
                "reasons": [_with_known_state(reason, words) for reason in verdict.reasons],
                "except": list(verdict.excepted),
                "node_ip": verdict.node_ip,
            }
            for name, verdict in list(known.decision.namespaces.items())
            if verdict.disposition is not Disposition.NORMAL
        },
    }


def status_text(status: Mapping[str, Any]) -> str:
    """Return the status as lines: what is wrong, namespaces with the reasons of those that are dropped or lack a way
    first, holders that are not up, what was dropped and why, then what works.
    """
    state = "ready" if status["ready"] else "NOT READY"
    draining = _draining(status["drain"]) if status["draining"] else ""
    lines = [f"node {status['node']}: {state}{draining}, {_count(status['pods'], 'pod address', 'pod addresses')}"]
    lines += [f"  PROBLEM {problem}" for problem in status["problems"]]
    well: list[str] = []
    poorly: list[str] = []
    for name, space in sorted(status["namespaces"].items(), key=lambda item: _rank(status, *item)):
        ways = ", ".join(_way(status, via) for via in space["via"])
        texts = [*space["reasons"], *reached_directly(space.get("except", ()))]
        found = [f"namespace {name}: {_verdict(status, space, ways)}", *(f"    {text}" for text in texts)]
        (well if _rank(status, name, space)[0] == _WELL else poorly).extend(found)
    holders = [f"holder {name}: {health}" for name, health in status["holders"].items()]
    dropped = sorted(status["dropped_packets"].items())
    lines += poorly
    lines += [line for line in holders if not line.endswith(": up")]
    lines += [f"dropped {_count(count, 'packet', 'packets')}: {DROPS.get(why, why)}" for why, count in dropped if count]
    lines += well
    others = status["other_namespaces"]
    leave = "leaves" if others == 1 else "leave"
    lines.append(
        f"{_count(others, 'namespace', 'namespaces')} without egress IPs {leave} with the address of the pod's node"
    )
    standby = status.get("standby") or {}
    names = standby.get("standbys", {})
    held = (f"{ip} (standby {names[ip]})" if ip in names else ip for ip in status["held"])
    lines.append(f"holds {', '.join(held) or 'nothing'}")
    if spare := standby.get("stands_by_for"):
        listed = ", ".join(f"{ip} of {name}" for ip, name in spare.items())
        lines.append(f"stands by for {listed}: {_count(standby['kept'], 'connection', 'connections')} kept")
    if status.get("container_runtime"):
        lines.append("the container runtime tells of pods before they start")
    lines += [line for line in holders if line.endswith(": up")]
    return "\n".join(lines)


def _draining(drain: Mapping[str, Any]) -> str:
    if drain["connections"] is None:
        return ", draining"
    left = f"{drain['connections']} connections left"
    return f", drained, {left}" if drain["done"] else f", draining, {left}, {drain['seconds_left']:.0f} s to wait"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _waits(status: Mapping[str, Any], space: Mapping[str, Any]) -> bool:
    """Tell whether no holder of the namespace has its address yet: until then it is dropped, too."""
    return bool(space["via"]) and all(via["ip"] in status["lacking"] for via in space["via"])


def _verdict(status: Mapping[str, Any], space: Mapping[str, Any], ways: str) -> str:
    if space.get("node_ip") and (not ways or _waits(status, space)):
        return "leaves with the address of the pod's node until it has a usable egress IP (whenUnavailable: NodeIP)"
    if not ways:
        return "DROP"
    return f"DROP until a holder has its address: {ways}" if _waits(status, space) else f"leaves with {ways}"


#: How bad it is for a namespace: dropped, dropped for the moment, lacks an address, well.
_DROPPED, _WAITS, _LACKS, _WELL = range(4)


def _rank(status: Mapping[str, Any], name: str, space: Mapping[str, Any]) -> tuple[int, str]:
    if not space["via"]:
        return _DROPPED, name
    if _waits(status, space):
        return _WAITS, name
    return (_LACKS if space["reasons"] else _WELL), name


def _way(status: Mapping[str, Any], via: Mapping[str, str]) -> str:
    """Return an address, where it is, and what is to be known about that."""
    ip, node = via["ip"], via["node"]
    if ip in status["lacking"]:
        return f"{ip} on {node} (not used: not on its interface yet)"
    if node == status["node"]:
        return f"{ip} on this node"
    return f"{ip} on {node} ({status['holders'].get(node, 'no pod here needs it')})"


def is_well(status: Mapping[str, Any]) -> bool:
    """Return whether the agent is ready, has no problem, and drops the traffic of no namespace."""
    dropped = any(space["disposition"] == "drop" for space in status["namespaces"].values())
    return bool(status["ready"]) and not status["problems"] and not dropped
