"""The legacy iptables backend for a process that stays: tables that were found right are kept as blocks.

A look is then a comparison of two digests, and putting back is one system call, where a child with python-iptables
takes a fifth of a second. What belongs to others in a table stays as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from typing import Any

from egress_router.config.values import Family, HostName
from egress_router.net import forked
from egress_router.net.iptables.blocks import COUNTER_BYTES, TABLES, Block, XtSocket
from egress_router.net.iptables.chains import Chain, Entry, build_block, counted, digest, parse_block
from egress_router.net.iptables.entries import LAYOUTS
from egress_router.net.iptables.lock import xtables_lock
from egress_router.net.iptables.rules import IptTable, chain_lines, hook_lines
from egress_router.records import dataclass, replace
from egress_router.redirect.iptables_backend import IptablesBackend, answer_table, by_line, tables_of
from egress_router.redirect.iptables_rules import PREFIX, iptables_tables
from egress_router.redirect.offload import NOT_WITH_IPTABLES, OFF
from egress_router.redirect.values import Counters, FlowOffload, Translation

#: With more redirects, work is done in a child, with which its memory goes.
LARGE = 500
#: A packet that waits for its rules is worth more than the order of those who write them.
_PATIENCE_SECONDS = 0.05
_Key = tuple[Family, str]


@dataclass(frozen=True, slots=True)
class _CachedTable:
    """A table as it was right: its block without entries, and the entries compressed."""

    frame: Block
    entries: bytes
    digest: str

    def block(self) -> Block:
        return replace(self.frame, data=zlib.decompress(self.entries))


class CachedIptables:
    """Implements ``NatBackend`` with legacy iptables; ``IptablesBackend`` does what is not a matter of putting back."""

    name = IptablesBackend.name

    def __init__(self) -> None:
        self._backend = IptablesBackend()
        self._sockets: dict[Family, XtSocket] = {}
        self._kept: dict[_Key, _CachedTable] = {}
        self._desired: Translation | None = None
        #: What was in place before, and its tables: a router of a pair goes to and fro between two states.
        self._before: tuple[Translation, dict[_Key, _CachedTable]] | None = None

    def apply(self, desired: Translation) -> bool:
        """See NatBackend."""
        if desired == self._desired and not self._changed():
            return False
        before = self._leave_state()
        found = self._backend.iptables.apply(self._backend.tables(desired))
        self._keep(desired, _by_table({family: digests for family, (_, digests) in found.items()}))
        self._remember(before)
        return any(changed for changed, _ in found.values())

    def repair(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        self._go_back(desired)
        if desired == self._desired:
            changed = self._changed()
            if not changed:
                return []
            found = self._do(desired, lambda: self._restore(desired, changed))
            if found is not None:
                self._keep(desired, found[1])
                return list(found[0])
        before = self._leave_state()
        puts = self._backend.iptables.repair(self._backend.tables(desired))
        self._keep(desired, _by_table({family: put.digests for family, put in puts.items()}))
        self._remember(before)
        return [line for put in puts.values() for line in put.drift]

    def update_targets(self, desired: Translation, names: Collection[HostName]) -> None:
        """See NatBackend."""
        before, self._desired = self._desired, None
        changed = answer_table(desired, names)
        for family, digests in self._backend.iptables.fill(tables_of(changed)).items():
            key, layout, right = (family, "nat"), LAYOUTS[family], digests["nat"]
            block, kept = self._read(key), self._kept.get(key)
            if block is None or kept is None or digest(block, layout) != right:
                return
            if not _alike_but(changed[family].chains, parse_block(kept.block(), layout), parse_block(block, layout)):
                return
            self._kept[key] = _CachedTable(replace(block, data=b""), zlib.compress(block.data, 1), right)
        if before is not None and replace(before, answers=desired.answers) == desired:
            self._desired = desired

    def drift(self, desired: Translation) -> list[str]:
        """See NatBackend."""
        return [] if desired == self._desired and not self._changed() else self._backend.drift(desired)

    def counters(self, desired: Translation) -> dict[int, Counters]:
        """See NatBackend."""
        if desired != self._desired or self._changed():
            return self._backend.counters(desired)
        found: dict[int, Counters] = {}
        for row in self._do(desired, lambda: self._rows(desired)):
            line, *values = row
            found[line] = Counters(*values)
        return found

    def remove(self) -> None:
        """See NatBackend."""
        self._desired = None
        self._backend.remove()

    def cannot_offload(self) -> str:
        """See NatBackend."""
        return NOT_WITH_IPTABLES

    def why_no_offload(self, desired: Translation) -> str:
        """See NatBackend."""
        return OFF if desired.offload is FlowOffload.OFF else NOT_WITH_IPTABLES

    def _leave_state(self) -> tuple[Translation, dict[_Key, _CachedTable]] | None:
        """Return the state that is known, which is about to be left."""
        state = None if self._desired is None else (self._desired, self._kept)
        self._desired = None
        return state

    def _remember(self, before: tuple[Translation, dict[_Key, _CachedTable]] | None) -> None:
        if before is not None and before[0].adverts is not None and before[0] != self._desired:
            self._before = before

    def _go_back(self, desired: Translation) -> None:
        """Where ``desired`` is what was in place before, its tables are at hand, and only to be put back."""
        if self._before is None or desired == self._desired or desired != self._before[0]:
            return
        before = self._leave_state()
        self._desired, self._kept = self._before
        self._before = before

    def _do(self, desired: Translation, work: Callable[[], Any]) -> Any:
        large = len(desired.rules.redirects) > LARGE
        return forked.start(["iptables", "kept"], work).result() if large else work()

    def _keep(self, desired: Translation, digests: dict[str, str]) -> None:
        """Keep the tables whose digests are known to be right; all of them, or none."""
        kept: dict[_Key, _CachedTable] = {}
        for family in self._backend.families(desired):
            for table in TABLES:
                block, right = self._read((family, table)), digests.get(f"{family} {table}")
                if block is None or digest(block, LAYOUTS[family]) != right:
                    self._desired = None
                    return
                old = self._kept.get((family, table))
                if old is not None and old.digest == right:
                    kept[family, table] = old
                else:
                    kept[family, table] = _CachedTable(replace(block, data=b""), zlib.compress(block.data, 1), right)
        self._kept, self._desired = kept, desired

    def _read(self, key: _Key) -> Block | None:
        family, table = key
        own = self._sockets.get(family)
        if own is None:
            own = self._sockets[family] = XtSocket(family)
        return own.read(table)

    def _changed(self) -> list[_Key]:
        """Return the tables that are not as they were kept, in the order in which they are put back."""
        blocks = ((key, kept, self._read(key)) for key, kept in self._kept.items())
        return [key for key, kept, block in blocks if block is None or digest(block, LAYOUTS[key[0]]) != kept.digest]

    def _restore(self, desired: Translation, changed: list[_Key]) -> tuple[list[str], dict[str, str]] | None:
        """Put what is ours in ``changed`` back; return what was missing, and the digests of all tables afterwards.

        None when it cannot be done like this.
        """
        lines: list[str] = []
        digests = {f"{family} {table}": kept.digest for (family, table), kept in self._kept.items()}
        before: list[tuple[_Key, dict[str, Chain], dict[str, Chain]]] = []
        for key in changed:
            family, table = key
            layout = LAYOUTS[family]
            with xtables_lock(_PATIENCE_SECONDS):
                now = self._read(key)
                if now is None:
                    return None
                good, there = parse_block(self._kept[key].block(), layout), parse_block(now, layout)
                try:
                    wanted = _with_ours(good, there)
                    new = build_block(wanted, layout, now)
                    if wanted != there:
                        own = self._sockets[family]
                        last = own.replace(table, now, new)
                        own.add_counters(table, _carried_over(there, wanted, last))
                except (KeyError, OSError):
                    # Chains of others jump to one of ours that is gone, or somebody else was faster.
                    return None
            after = self._read(key)
            if after is None or digest(after, layout) != digest(new, layout):
                return None
            digests[f"{family} {table}"] = digest(after, layout)
            before.append((key, good, there))
        # Said last: for thousands of rules it takes longer than putting them back.
        for family in Family:
            repaired = [(table, good, there) for (of, table), good, there in before if of is family]
            rendered = {table.name: table for table in iptables_tables(desired, family)} if repaired else {}
            for table, good, there in repaired:
                lines += [f"{line} ({family})" for line in _lines(rendered[table], good, there)]
        return lines, digests

    def _rows(self, desired: Translation) -> list[tuple[int, int, int, int]]:
        """Return (line, connections, packets, bytes) of every line."""
        found: dict[int, Counters] = {}
        for family in self._backend.families(desired):
            rows: dict[str, list[tuple[int, int, int]]] = {}
            for table in iptables_tables(desired, family):
                block = self._read((family, table.name))
                values = {} if block is None else counted(block, LAYOUTS[family])
                own = rows.setdefault(table.name, [])
                for name, rules in table.chains.items():
                    for rule, (packets, size) in zip(rules, values.get(name, ()), strict=False):
                        if rule.line is not None:
                            own.append((rule.line, -packets if rule.target == "ACCEPT" else packets, size))
            for line, counters in by_line(desired, family, rows).items():
                found[line] = found.get(line, Counters()) + counters
        return [(line, item.connections, item.packets, item.bytes) for line, item in found.items()]


def _by_table(digests: dict[Family, dict[str, str]]) -> dict[str, str]:
    """Return digests by what a child can tell of as JSON."""
    return {f"{family} {name}": value for family, own in digests.items() for name, value in own.items()}


def _with_ours(good: dict[str, Chain], there: dict[str, Chain]) -> dict[str, Chain]:
    """Return the chains of ``there`` with ours as they are in ``good``."""
    found: dict[str, Chain] = {}
    for name, chain in there.items():
        if name and not chain.head:
            ours = tuple(entry for entry in good[name].entries if entry.jump.startswith(PREFIX))
            found[name] = Chain(ours + tuple(entry for entry in chain.entries if not entry.jump.startswith(PREFIX)))
        elif name and not name.startswith(PREFIX):
            found[name] = chain
    found |= {name: chain for name, chain in good.items() if name.startswith(PREFIX)}
    return found | {"": there[""]}


def _alike_but(names: Collection[str], old: dict[str, Chain], new: dict[str, Chain]) -> bool:
    """Whether two tables have the same chains but for what is in those of ``names``."""
    return old.keys() == new.keys() and all(chain == new[name] for name, chain in old.items() if name not in names)


def _carried_over(there: dict[str, Chain], wanted: dict[str, Chain], last: bytes) -> bytes:
    """Return the counters for the entries of ``wanted``: those that ``there`` has, too, keep what they have counted."""
    values = (last[at : at + COUNTER_BYTES] for at in range(0, len(last), COUNTER_BYTES))
    known: dict[tuple[str, Entry], list[bytes]] = {}
    for name, chain in there.items():
        if chain.head:
            next(values)
        for entry in chain.entries:
            known.setdefault((name, entry), []).append(next(values))
    found: list[bytes] = []
    for name, chain in wanted.items():
        if chain.head:
            found.append(bytes(COUNTER_BYTES))
        for entry in chain.entries:
            same = known.get((name, entry))
            found.append(same.pop(0) if same else bytes(COUNTER_BYTES))
    return b"".join(found)


def _lines(table: IptTable, good: dict[str, Chain], there: dict[str, Chain]) -> list[str]:
    """Return how ``there`` differs from ``good``, which is what ``table`` asks for; in the words of Tables.drift."""
    found = [f"- -t {table.name} -N {name}" for name in table.chains if name not in there]
    for name, rules in table.chains.items():
        have = there[name].entries[:-1] if name in there else ()
        found += chain_lines(table.name, name, rules, good[name].entries[:-1], have)
    wanted = _with_ours(good, there)
    if any(chain != wanted[name] for name, chain in there.items() if name and not chain.head):
        found += hook_lines(table)
    return found + [f"+ -t {table.name} -N {name}" for name in there if name.startswith(PREFIX) and name not in good]
