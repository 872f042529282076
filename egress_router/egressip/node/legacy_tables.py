"""Tables of iptables-legacy, which nft(8) does not list: what they forward, and which marks they use.

See iptables-save(8), iptables-extensions(8). The kernel is asked first which tables there are: to ask for one with the
tool makes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from egress_router.net.process import run_tool

#: By IP version: the file that names the tables that there are in this network namespace, and the tool.
_NAMES = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
_TOOLS = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_FAMILY = {4: "ip", 6: "ip6"}
#: Another program may hold the lock of all iptables for so long; seconds.
_LOCK_SECONDS = "5"
#: Verdicts on everything, in the words of nft's JSON; see forward_policy.
_VERDICTS: dict[str, dict[str, Any]] = {
    "ACCEPT": {"accept": None},
    "DROP": {"drop": None},
    "REJECT": {"xt": {"name": "REJECT"}},
    "RETURN": {"return": None},
    "LOG": {"log": None},
    "NFLOG": {"log": None},
}
_WAYS = {"-i": "iifname", "-o": "oifname"}


@dataclass(frozen=True, slots=True)
class LegacyTable:
    """A table: the policy of each of its chains (``-`` of those that are no base chains), and the rules in order, as
    words without the chain and the comment.
    """

    version: int
    name: str
    policies: dict[str, str]
    rules: tuple[tuple[str, tuple[str, ...]], ...]
    comments: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        """What it is called in messages."""
        return f"{_TOOLS[self.version]} table {self.name}"


def parse_save(text: str, version: int) -> LegacyTable | None:
    """Return what ``iptables-save -t TABLE`` prints, None when it is no table. Pure."""
    name, policies, comments = "", {}, set()
    rules: list[tuple[str, tuple[str, ...]]] = []
    begun = ""
    for part in text.split("\n"):
        line, begun = begun + part, ""
        if line.startswith("*"):
            name = line[1:].strip()
        elif line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            policies[chain] = policy
        elif line.startswith("-A "):
            try:
                _, chain, *words = shlex.split(line)
            except ValueError:
                # There is a line break in a comment.
                begun = f"{line}\n"
                continue
            if "--comment" in words:
                at = words.index("--comment")
                comments.add(words[at + 1])
                del words[at : at + 2]
                if "comment" in words:
                    at = words.index("comment")
                    del words[at - 1 : at + 1]
            rules.append((chain, tuple(words)))
    return LegacyTable(version, name, policies, tuple(rules), frozenset(comments)) if name else None


def legacy_tables(*names: str) -> tuple[list[LegacyTable], list[str]]:
    """Return the tables that there are, of these names only where there are any; and what cannot be read, a line each.
    Raises ToolFailed.
    """
    found: list[LegacyTable] = []
    unread: list[str] = []
    for version, path in _NAMES.items():
        try:
            there = path.read_text().split()
        except OSError:
            # The kernel has no such tables, or no such family.
            continue
        wanted = sorted(name for name in there if not names or name in names)
        if wanted and which(f"{_TOOLS[version]}-save") is None:
            unread.append(
                f"there are {_TOOLS[version]} tables ({', '.join(wanted)}), and `{_TOOLS[version]}-save`, which could "
                "read them, is not installed"
            )
            continue
        for name in wanted:
            table = parse_save(run_tool([f"{_TOOLS[version]}-save", "-t", name]), version)
            if table is not None:
                found.append(table)
    return found, unread


def as_ruleset(table: LegacyTable) -> Iterator[dict[str, Any]]:
    """Yield the filter table as ``nft -j list ruleset`` would have it, as far as forward_policy asks. Pure."""
    place = {"family": _FAMILY[table.version], "table": table.name}
    for chain, policy in table.policies.items():
        base = {"hook": chain.lower(), "policy": policy.lower()} if policy != "-" else {}
        yield {"chain": {**place, "name": chain, **base}}
    for chain, words in table.rules:
        yield {"rule": {**place, "chain": chain, "handle": 0, "expr": list(_expressions(words, table.policies))}}


def _expressions(words: tuple[str, ...], chains: Iterable[str]) -> Iterator[dict[str, Any]]:
    match words:
        case (("-j" | "-g") as how, target, *_):
            # What it looks at comes first: nothing.
            if target in chains:
                yield {"jump" if how == "-j" else "goto": {"target": target}}
            else:
                yield _VERDICTS.get(target, {"xt": {"name": target}})
        case (("-i" | "-o") as way, interface, "-j", "ACCEPT"):
            yield {"match": {"op": "==", "left": {"meta": {"key": _WAYS[way]}}, "right": interface}}
            yield {"accept": None}
        case _:
            yield {"xt": {"name": "match"}}
            yield {"xt": {"name": "target"}}


def append_rule(version: int, words: Iterable[str], comment: str) -> None:
    """Add a last rule to a chain of the filter table; ``words`` begin with the chain. Raises ToolFailed."""
    _change(version, "-A", words, comment)


def delete_rule(version: int, words: Iterable[str], comment: str) -> None:
    """Take such a rule away. Raises ToolFailed."""
    _change(version, "-D", words, comment)


def _change(version: int, how: str, words: Iterable[str], comment: str) -> None:
    chain, *rest = words
    run_tool([_TOOLS[version], "-w", _LOCK_SECONDS, how, chain, "-m", "comment", "--comment", comment, *rest])
