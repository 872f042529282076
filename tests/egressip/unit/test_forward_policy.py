"""Chains of others at the forward hook: where our rules are added, and where they would not help."""

from __future__ import annotations

from typing import Any

import pytest

from egress_router.egressip.node.forward_policy import accept_script, forward_chains
from egress_router.egressip.node.legacy_tables import as_ruleset, parse_save

DROP: dict[str, Any] = {"drop": None}
REJECT: dict[str, Any] = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
ACCEPT: dict[str, Any] = {"accept": None}
BOTH = {"iifname", "oifname"}
COUNTER: dict[str, Any] = {"counter": {"packets": 1, "bytes": 2}}


def by(way: str) -> list[dict[str, Any]]:
    match = {"match": {"op": "==", "left": {"meta": {"key": way}}, "right": "egressvx0"}}
    return [match, COUNTER, ACCEPT]


def jump(target: str, verdict: str = "jump") -> list[dict[str, Any]]:
    return [COUNTER, {verdict: {"target": target}}]


def chain(name: str, *rules: list[dict[str, Any]]) -> list[Any]:
    place = {"family": "ip", "table": "filter"}
    return [
        {"chain": {**place, "name": name}},
        *({"rule": {**place, "chain": name, "handle": 1, "expr": expr}} for expr in rules),
    ]


def ruleset(policy: str, *rules: list[dict[str, Any]], table: str = "filter", hook: str = "forward") -> list[Any]:
    place = {"family": "ip", "table": table}
    chain = {"chain": {**place, "name": "FORWARD", "hook": hook, "prio": 0, "policy": policy}}
    return [chain, *({"rule": {**place, "chain": "FORWARD", "handle": 1, "expr": expr}} for expr in rules)]


OTHER: list[dict[str, Any]] = [
    {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "docker0"}},
    ACCEPT,
]
XT_REJECT: list[dict[str, Any]] = [COUNTER, {"xt": {"type": "target", "name": "REJECT"}}]


@pytest.mark.parametrize(
    ("rules", "added", "ends"),
    [
        (ruleset("accept"), 0, False),
        (ruleset("accept", OTHER), 0, False),
        (ruleset("drop"), 2, False),
        (ruleset("drop", OTHER), 2, False),
        (ruleset("drop", by("iifname")), 1, False),
        (ruleset("drop", by("iifname"), by("oifname")), 0, False),
        (ruleset("accept", OTHER, [REJECT]), 0, True),
        (ruleset("accept", OTHER, XT_REJECT), 0, True),
        (ruleset("accept", [COUNTER, DROP], by("iifname"), by("oifname")), 0, True),
        (ruleset("accept", by("iifname"), by("oifname"), [REJECT]), 0, False),
        (ruleset("accept", by("iifname"), [REJECT]), 0, True),
        (ruleset("drop", jump("ufw")) + chain("ufw", [REJECT]), 2, True),
        (ruleset("accept", jump("one"), OTHER) + chain("one", jump("two", "goto")) + chain("two", XT_REJECT), 0, True),
        (ruleset("drop", jump("ufw")) + chain("ufw", by("iifname"), by("oifname"), [REJECT]), 0, False),
        (ruleset("drop", jump("ufw")) + chain("ufw", [{"return": None}], [REJECT]), 2, False),
        (ruleset("drop", [*OTHER[:1], *jump("ufw")]) + chain("ufw", [REJECT]), 2, False),
        (ruleset("accept", jump("loop")) + chain("loop", jump("FORWARD"), [REJECT]), 0, True),
        (ruleset("accept", [ACCEPT], [REJECT]), 0, False),
        (ruleset("drop", table="egress_node"), 0, False),
        (ruleset("drop", hook="input"), 0, False),
    ],
)
def test_where_rules_are_added_and_where_they_do_not_help(rules: list[Any], added: int, ends: bool) -> None:
    chains = forward_chains(rules)
    assert accept_script(chains).count("add rule ip filter FORWARD") == added
    assert any(chain.ends_before for chain in chains) is ends


@pytest.mark.parametrize(
    ("lines", "accepted", "ends"),
    [
        ("", set(), False),
        ('-A FORWARD -i egressvx0 -m comment --comment "egress-router: x" -j ACCEPT', {"iifname"}, False),
        ("-A FORWARD -i egressvx0 -j ACCEPT\n-A FORWARD -o egressvx0 -j ACCEPT\n-A FORWARD -j DROP", BOTH, False),
        ("-A FORWARD -i egressvx0 -s 192.0.2.0/24 -j ACCEPT", set(), False),
        ('-A FORWARD -j LOG --log-prefix "no -j DROP"', set(), False),
        ("-A FORWARD -j REJECT --reject-with icmp-port-unreachable", set(), True),
        ("-A FORWARD -j DROP\n-A FORWARD -i egressvx0 -j ACCEPT\n-A FORWARD -o egressvx0 -j ACCEPT", BOTH, True),
        ("-A FORWARD -p tcp -j DROP", set(), False),
        ('-A FORWARD -m comment --comment "two\n:lines \\"of\\" it" -j DROP', set(), True),
        ("-A FORWARD -j last\n-A last -j DROP", set(), True),
        ("-A FORWARD -g last\n-A last -p udp -j DROP\n-A FORWARD -j DROP", set(), False),
        ("-A FORWARD -j last\n-A last -j RETURN\n-A last -j DROP", set(), False),
    ],
)
def test_legacy_chains(lines: str, accepted: set[str], ends: bool) -> None:
    head = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [3:180]\n:last - [0:0]\n"
    table = parse_save(f"{head}{lines}\nCOMMIT\n", 6)
    assert table is not None
    (chain,) = forward_chains(as_ruleset(table))
    assert (chain.drops, set(chain.accepted), chain.ends_before) == (True, accepted, ends)
