"""A node's status for people: problems first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egress_router.model.node import DROPS


def status_text(status: Mapping[str, Any]) -> str:
    """Return the status as lines: what is wrong, dropped namespaces with their reasons, then what works."""
    state = "ready" if status["ready"] else "NOT READY"
    lines = [f"node {status['node']}: {state}{', draining' if status['draining'] else ''}, {status['pods']} pods"]
    lines += [f"  PROBLEM {problem}" for problem in status["problems"]]
    spaces = sorted(status["namespaces"].items(), key=lambda item: (item[1]["disposition"] != "drop", item[0]))
    for name, space in spaces:
        ways = ", ".join(f"{via['ip']} on {via['node']}" for via in space["via"])
        lines.append(f"namespace {name}: {'leaves with ' + ways if ways else 'DROP'}")
        lines += [f"    {reason}" for reason in space["reasons"]]
    lines += [f"not used: {ip} is not on its holder's interface" for ip in status["lacking"]]
    lines += [
        f"dropped {count} packets: {DROPS[why]}" for why, count in sorted(status["dropped_packets"].items()) if count
    ]
    lines.append(f"holds {', '.join(status['held']) or 'nothing'}")
    lines += [f"holder {name}: {health}" for name, health in status["holders"].items()]
    return "\n".join(lines)
