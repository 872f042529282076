"""A node's status for people: problems first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egress_router.model.node import DROPS


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
        told = [f"namespace {name}: {_verdict(status, space, ways)}", *(f"    {text}" for text in space["reasons"])]
        (well if _rank(status, name, space)[0] == _WELL else poorly).extend(told)
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
    lines.append(f"holds {', '.join(status['held']) or 'nothing'}")
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
