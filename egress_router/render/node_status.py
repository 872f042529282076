"""A node's status for people: problems first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egress_router.model.node import DROPS


def status_text(status: Mapping[str, Any]) -> str:
    """Return the status as lines: what is wrong, namespaces with the reasons of those that are dropped or lack a way
    first, what was dropped and why, then what works.
    """
    state = "ready" if status["ready"] else "NOT READY"
    draining = _draining(status["drain"]) if status["draining"] else ""
    lines = [f"node {status['node']}: {state}{draining}, {status['pods']} pod addresses"]
    lines += [f"  PROBLEM {problem}" for problem in status["problems"]]
    for name, space in sorted(status["namespaces"].items(), key=_worst_first):
        ways = ", ".join(_way(status, via) for via in space["via"])
        lines.append(f"namespace {name}: {'leaves with ' + ways if ways else 'DROP'}")
        lines += [f"    {reason}" for reason in space["reasons"]]
    others = status["other_namespaces"]
    lines.append(f"{others} namespaces without egress IPs leave with the address of their pods' node")
    dropped = sorted(status["dropped_packets"].items())
    lines += [f"dropped {count} packets: {DROPS.get(why, why)}" for why, count in dropped if count]
    lines.append(f"holds {', '.join(status['held']) or 'nothing'}")
    lines += [f"holder {name}: {health}" for name, health in status["holders"].items()]
    return "\n".join(lines)


def _draining(drain: Mapping[str, Any]) -> str:
    if drain["connections"] is None:
        return ", draining"
    left = f"{drain['connections']} connections left"
    return f", drained, {left}" if drain["done"] else f", draining, {left}, {drain['seconds_left']:.0f} s to wait"


def _worst_first(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, bool, str]:
    name, space = item
    return bool(space["via"]), not space["reasons"], name


def _way(status: Mapping[str, Any], via: Mapping[str, str]) -> str:
    """Return an address, where it is, and what is to be known about that."""
    ip, node = via["ip"], via["node"]
    if ip in status["lacking"]:
        return f"{ip} on {node} (not used: not on its interface yet)"
    if node == status["node"]:
        return f"{ip} on this node"
    return f"{ip} on {node} ({status['holders'].get(node, 'no pod here needs it')})"
