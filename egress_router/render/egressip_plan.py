"""The decision as JSON and as text for people."""

from __future__ import annotations

import json

from egress_router.model.egressip import Decision, Disposition


def decision_json(decision: Decision) -> str:
    """Return the decision as one JSON document, sorted and stable."""
    return json.dumps(
        {
            "namespaces": {
                name: {
                    "netid": verdict.netid,
                    "disposition": verdict.disposition.value,
                    "via": [{"ip": via.ip, "node": via.node} for via in verdict.via],
                    "reasons": list(verdict.reasons),
                }
                for name, verdict in sorted(decision.namespaces.items())
            },
            "nodes": {
                name: {"claims": list(verdict.claims), "problems": list(verdict.problems)}
                for name, verdict in sorted(decision.nodes.items())
            },
            "assignment": {node: list(ips) for node, ips in sorted(decision.assignment.items())},
        },
        indent=2,
    )


def decision_text(decision: Decision) -> str:
    """Return the decision for people: dropped namespaces first, then those with egress IPs, then nodes that hold
    or should hold something. Normal namespaces are only counted.
    """
    lines = []
    normal = 0
    ranked = sorted(decision.namespaces.items(), key=lambda item: (item[1].disposition is not Disposition.DROP, item))
    for name, verdict in ranked:
        if verdict.disposition is Disposition.NORMAL:
            normal += 1
            continue
        ways = ", ".join(f"{via.ip} on {via.node}" for via in verdict.via)
        what = "DROP" if verdict.disposition is Disposition.DROP else f"leaves with {ways}"
        lines.append(f"namespace {name}: {what}")
        lines.extend(f"    {reason}" for reason in verdict.reasons)
    if normal:
        lines.append(f"{normal} namespace{'' if normal == 1 else 's'} without egress IPs: normal")
    for node, held in sorted(decision.nodes.items()):
        if held.claims or held.problems:
            given = set(decision.assignment.get(node, ()))
            claims = ", ".join(ip + (" (automatic)" if ip in given else "") for ip in held.claims)
            lines.append(f"node {node}: {'holds ' + claims if claims else 'holds nothing'}")
            lines.extend(f"    {problem}" for problem in held.problems)
    return "\n".join(lines)
