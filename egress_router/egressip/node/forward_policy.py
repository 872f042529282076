"""Chains of others that forward nothing unless it is accepted: what goes through the tunnel is, in them as well.

Docker, ufw and hardened nodes have FORWARD drop. The rules are the last ones of the chain, so that what others deny
stays denied: a NetworkPolicy, say. See nft(8), and iptables(8) for tables of iptables-legacy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from egress_router.egressip.node.legacy_tables import LegacyTable, append_rule, as_ruleset, delete_rule, legacy_tables
from egress_router.egressip.node.nft_rules import TABLE
from egress_router.egressip.node.state import TUNNEL
from egress_router.egressip.node.tables import load
from egress_router.errors import ToolFailed
from egress_router.net.process import run_tool

#: What our rules in others' chains are known by.
COMMENT = "egress-router: what goes through its tunnel"
_WAYS = ("iifname", "oifname")
#: The table of iptables-legacy that forwards, and our rules in it.
LEGACY_TABLE = "filter"
_LEGACY_RULES = {
    "iifname": ("FORWARD", "-i", TUNNEL, "-j", "ACCEPT"),
    "oifname": ("FORWARD", "-o", TUNNEL, "-j", "ACCEPT"),
}
#: Verdicts on everything that end a chain.
_LAST = ("accept", "drop", "reject")
_FAMILIES = ("ip", "ip6", "inet")
#: Family, table and name of a chain; the rules of each.
_Key = tuple[str, str, str]
_Rules = dict[_Key, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class ForwardChain:
    """A base chain at the forward hook: ``name`` as nft has it (family, table, chain), which ways through the tunnel
    (``iifname``, ``oifname``) a rule accepts, ours or an administrator's, whether it drops what no rule accepts, and
    whether a rule before those drops the rest.
    """

    name: str
    accepted: frozenset[str]
    drops: bool
    ends_before: bool


def forward_chains(ruleset: Iterable[dict[str, Any]]) -> list[ForwardChain]:
    """Return the chains in what ``nft -j list ruleset`` has under ``nftables``, our own left out. Pure."""
    found: dict[_Key, dict[str, Any]] = {}
    rules: _Rules = {}
    for item in ruleset:
        if "chain" in item:
            chain = item["chain"]
            if chain.get("hook") == "forward" and chain["family"] in _FAMILIES and chain["table"] != TABLE:
                found[(chain["family"], chain["table"], chain["name"])] = chain
        elif "rule" in item:
            rule = item["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
    return [_chain(key, chain, list(_in_order(key, rules))) for key, chain in found.items()]


def _in_order(key: _Key, rules: _Rules, above: frozenset[_Key] = frozenset()) -> Iterator[dict[str, Any]]:
    """Yield the rules of a chain, with those of the chains that it leads everything to in their places: ufw has all of
    its rules in such ones.
    """
    for rule in rules.get(key, []):
        verdict, target = _verdict_on_all(rule["expr"])
        inner = (*key[:2], target)
        if verdict == "return":
            return
        if verdict in ("jump", "goto") and inner not in above:
            yield from _in_order(inner, rules, above | {key})
        else:
            yield rule
        if verdict == "goto":
            return


def _chain(key: _Key, chain: dict[str, Any], rules: list[dict[str, Any]]) -> ForwardChain:
    # What comes behind a rule that accepts everything is never met.
    verdicts = [_verdict_on_all(rule["expr"])[0] for rule in rules]
    end = next((number for number, verdict in enumerate(verdicts) if verdict in _LAST), len(rules))
    accepted = frozenset(way for rule in rules for way in _WAYS if _accepts(rule["expr"], way))
    in_time = {way for rule in rules[:end] for way in _WAYS if _accepts(rule["expr"], way)}
    ends = end < len(rules) and verdicts[end] != "accept" and not in_time.issuperset(_WAYS)
    return ForwardChain(" ".join(key), accepted, chain.get("policy") == "drop", ends)


def _accepts(expressions: list[dict[str, Any]], way: str) -> bool:
    """Return whether a rule accepts all that goes the way through the tunnel."""
    match = {"match": {"op": "==", "left": {"meta": {"key": way}}, "right": TUNNEL}}
    return [item for item in expressions if "counter" not in item] == [match, {"accept": None}]


def _verdict_on_all(expressions: list[dict[str, Any]]) -> tuple[str, str]:
    """Return what a rule does with whatever comes to it (empty: it looks at something first), and the chain that it
    leads to.
    """
    rest = [item for item in expressions if not item.keys() <= {"counter", "log", "limit"}]
    if len(rest) != 1 or len(rest[0]) != 1:
        return "", ""
    verdict, value = next(iter(rest[0].items()))
    if verdict == "xt":
        return ("reject", "") if isinstance(value, dict) and value.get("name") == "REJECT" else ("", "")
    return verdict, str(value["target"]) if verdict in ("jump", "goto") else ""


def accept_script(chains: Iterable[ForwardChain]) -> str:
    """Return the script that adds our rules where something is dropped and they are missing; empty where none is."""
    return "".join(
        f'add rule {chain.name} {way} "{TUNNEL}" counter accept comment "{COMMENT}"\n'
        for chain in chains
        if chain.drops
        for way in _WAYS
        if way not in chain.accepted
    )


def accept_tunnel() -> tuple[list[str], list[str]]:
    """Add our rules where they are missing; return what was done, and what others' rules drop all the same, a line
    each. Raises ToolFailed.
    """
    chains = _present()
    script = accept_script(chains)
    load(script)
    done = [f"rules added: {line.removeprefix('add rule ')}" for line in script.splitlines()]
    problems = [_problem(chain.name) for chain in chains if chain.ends_before]
    for table in legacy_tables(LEGACY_TABLE)[0]:
        for chain in forward_chains(as_ruleset(table)):
            if chain.drops:
                done += [_accept_in_legacy(table, way) for way in _WAYS if way not in chain.accepted]
            if chain.ends_before:
                problems.append(_problem(f"FORWARD of {table.place}"))
    return done, problems


def _problem(chain: str) -> str:
    return (
        f"the chain {chain} drops what goes through the tunnel: a rule before ours drops all that comes to it. "
        f'Accept iifname and oifname "{TUNNEL}" before that rule'
    )


def _accept_in_legacy(table: LegacyTable, way: str) -> str:
    append_rule(table.version, _LEGACY_RULES[way], COMMENT)
    return f"rules added: {table.place}, {' '.join(_LEGACY_RULES[way])}"


def remove_rules() -> list[str]:
    """Take our rules out of others' chains; return what was removed, a line each. Raises ToolFailed."""
    removed = []
    for item in _listed("ruleset"):
        rule = item.get("rule", {})
        if rule.get("comment") == COMMENT:
            place = f"{rule['family']} {rule['table']} {rule['chain']}"
            load(f"delete rule {place} handle {rule['handle']}\n")
            removed.append(f"rule of {place}: {COMMENT}")
    for table in legacy_tables(LEGACY_TABLE)[0]:
        for rule in _LEGACY_RULES.values():
            if COMMENT in table.comments and (rule[0], rule[1:]) in table.rules:
                delete_rule(table.version, rule, COMMENT)
                removed.append(f"rule of {table.place}: {COMMENT}")
    return removed


def _present() -> list[ForwardChain]:
    """Return the chains at the forward hook with their rules; asks for the rules of few chains, there may be many."""
    items: list[dict[str, Any]] = []
    wanted = [(*chain.name.split(),) for chain in forward_chains(_listed("chains"))]
    asked: set[tuple[str, ...]] = set()
    while wanted:
        key = wanted.pop()
        if key in asked:
            continue
        asked.add(key)
        found = _listed("chain", *key)
        items += found
        targets = (_verdict_on_all(item["rule"]["expr"])[1] for item in found if "rule" in item)
        wanted += [(*key[:2], target) for target in targets if target]
    return forward_chains(items)


def _listed(*what: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads(run_tool(["nft", "-j", "-a", "list", *what]))["nftables"])
    except ToolFailed as error:
        if error.absent:
            # It went away since it was listed.
            return []
        raise
