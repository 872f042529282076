"""How the nft(8) of this machine writes our rules: versions differ, and what is meant is the same.

``tcp flags & (syn | rst) == syn`` is listed so by nft 1.1.3 and as ``tcp flags syn / syn,rst`` by 1.0.6. So where a
table does not read as it was written, what was written is loaded once more beside it, dormant (its chains have no
hooks: no packet meets them), without elements, under a name of its own; it is listed by the same nft and removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from egress_router.errors import ToolFailed
from egress_router.net.nft.listing import parse_table
from egress_router.net.nft.script import table_text
from egress_router.net.nft.values import NftChain, NftSet, NftTable
from egress_router.records import replace


class Wording:
    """Knows how nft lists what it was once asked about. ``run`` runs nft with options and an input."""

    def __init__(self, run: Callable[[list[str], str], str]) -> None:
        self._run = run
        #: A rule, a hook or the lines of a set's header, as we write it → as nft lists it.
        self._rules: dict[str, str] = {}
        self._headers: dict[tuple[str, ...], tuple[str, ...]] = {}

    def ours(self, actual: NftTable, like: NftTable) -> NftTable:
        """Return ``actual``, which nft has listed, in the order of ``like`` and, where it means the same as a part of
        ``like``, in the words of that. Elements are left alone.
        """
        actual = actual.in_order_of(like)
        if _frame(actual) == _frame(like):
            return actual
        self._learn(like)
        chains = {chain.name: chain for chain in like.chains}
        sets = {item.name: item for item in like.sets}
        return replace(
            actual,
            chains=tuple(self._chain(chain, chains.get(chain.name)) for chain in actual.chains),
            sets=tuple(self._set(item, sets.get(item.name)) for item in actual.sets),
        )

    def rule(self, rule: str) -> str:
        """Return how nft lists a rule of ours; as it is where nobody had to ask."""
        return self._rules.get(rule, rule)

    def _chain(self, chain: NftChain, like: NftChain | None) -> NftChain:
        if like is None:
            return chain
        ours = {self.rule(rule): rule for rule in reversed(like.rules)}
        rules = [ours.get(rule, rule) for rule in chain.rules]
        # Two rules of ours that read alike to nft: the one in its place is meant.
        for place, (found, wanted) in enumerate(zip(chain.rules, like.rules, strict=False)):
            if found == self.rule(wanted):
                rules[place] = wanted
        hook = like.hook if like.hook is not None and chain.hook == self.rule(like.hook) else chain.hook
        return replace(chain, rules=tuple(rules), hook=hook)

    def _set(self, item: NftSet, like: NftSet | None) -> NftSet:
        if like is None or item.header != self._headers.get(like.header, like.header):
            return item
        return replace(item, header=like.header)

    def _learn(self, table: NftTable) -> None:
        headers = {item.header for item in table.sets}
        if headers <= self._headers.keys() and all(line in self._rules for line in _lines(table)):
            return
        # Two processes may ask at the same time.
        name = f"{table.name}_wording_{os.getpid()}"
        copy = replace(table.without_elements(), name=name)
        head = f"table {name} {{\n"
        script = _remove(name) + table_text(copy).replace(head, f"{head}\tflags dormant;\n", 1)
        try:
            self._run(["-f", "-"], script)
            try:
                listed = parse_table(self._run(["-s", "-t", "list", "table", *name.split()], ""))
            finally:
                self._run(["-f", "-"], _remove(name))
        except ToolFailed:
            # Then the words are compared as they are: that tells of a difference where there may be none.
            return
        for ours, theirs in zip(copy.sets, listed.in_order_of(copy).sets, strict=True):
            self._headers[ours.header] = theirs.header
        for wanted, found in zip(copy.chains, listed.in_order_of(copy).chains, strict=True):
            if len(wanted.rules) == len(found.rules):
                self._rules |= dict(zip(wanted.rules, found.rules, strict=True))
            if wanted.hook is not None and found.hook is not None:
                self._rules[wanted.hook] = found.hook


def _remove(name: str) -> str:
    """Return the script that removes a dormant table, whether or not it is there. Named without its flag it would wake
    up: the kernel registers the hooks of its chains at once, and packets meet their rules with empty sets until the
    transaction is over.
    """
    return f"add table {name} {{ flags dormant; }}\ndelete table {name}\n"


def _lines(table: NftTable) -> list[str]:
    found = [rule for chain in table.chains for rule in chain.rules]
    return found + [chain.hook for chain in table.chains if chain.hook is not None]


def _frame(table: NftTable) -> tuple[object, ...]:
    return table.counters, table.chains, [(item.kind, item.name, item.header) for item in table.sets]
