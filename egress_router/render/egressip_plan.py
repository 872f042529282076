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
    """Return the decision for people: dropped namespaces first, then others that lack an address, nodes with problems,
    and then what is well: namespaces, and nodes that hold something. Normal namespaces are only counted.
    """
    blocks: list[tuple[int, list[str]]] = []
    normal = 0
    for name, verdict in sorted(decision.namespaces.items()):
        if verdict.disposition is Disposition.NORMAL:
            normal += 1
            continue
        dropped = verdict.disposition is Disposition.DROP
        ways = ", ".join(f"{via.ip} on {via.node}" for via in verdict.via)
        line = f"namespace {name}: {'DROP' if dropped else f'leaves with {ways}'}"
        rank = 0 if dropped else 1 if verdict.reasons else 3
        blocks.append((rank, [line, *(f"    {reason}" for reason in verdict.reasons)]))
    if normal:
        blocks.append((4, [f"{normal} namespace{'' if normal == 1 else 's'} without egress IPs: normal"]))
    for node, held in sorted(decision.nodes.items()):
        if held.claims or held.problems:
            given = set(decision.assignment.get(node, ()))
            claims = ", ".join(ip + (" (automatic)" if ip in given else "") for ip in held.claims)
            line = f"node {node}: {'holds ' + claims if claims else 'holds nothing'}"
            blocks.append((2 if held.problems else 5, [line, *(f"    {problem}" for problem in held.problems)]))
    return "\n".join(line for _, lines in sorted(blocks, key=lambda block: block[0]) for line in lines)
