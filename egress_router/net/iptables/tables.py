"""What runs in the child process of one family: read, compare and write the tables through python-iptables."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from egress_router.config.values import Family
from egress_router.errors import PlatformError, StateMismatch
from egress_router.net.iptables.blocks import XtSocket
from egress_router.net.iptables.chains import digest
from egress_router.net.iptables.entries import LAYOUTS, EntryEncoder, entry_bytes
from egress_router.net.iptables.library import load_iptc
from egress_router.net.iptables.lock import xtables_lock
from egress_router.net.iptables.rules import IptRule, IptTable, chain_lines, hook_lines

#: The kernel refuses a commit when somebody else has changed the table since it was read.
ATTEMPTS = 10
_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_VERDICTS = ("ACCEPT", "DROP", "RETURN")


def load() -> None:
    """Load python-iptables, which knows no family before it is used. Raises PlatformError."""
    load_iptc()


class Tables:
    """The iptables of one family. What its methods do and raise is said in ``kernel.Iptables``."""

    def __init__(self, family: Family, prefix: str) -> None:
        """``prefix`` begins the names of our chains."""
        self._iptc = load_iptc()
        self._family = family
        self._prefix = prefix
        self._encoder = EntryEncoder(self._iptc, family)

    def apply(self, tables: Sequence[IptTable]) -> tuple[bool, dict[str, str]]:
        """Put ``tables`` in place; return whether any differed, and the digests of what was found to be right."""
        changed, digests = False, self._digests(tables)
        for table in tables:
            changed |= self._commit(table)
        if changed:
            # Before the rules are read: what is found right is as old as that, or older.
            digests = self._digests(tables)
            found = self.drift(tables)
            if found:
                raise StateMismatch(
                    "the iptables rules that were read back are not those of the commit:\n" + "\n".join(found)
                )
        return changed, digests

    def fill(self, tables: Sequence[IptTable]) -> dict[str, str]:
        """Give the chains of ``tables``, and no others, their rules; return the digests of what they were found in."""
        for table in tables:
            self._commit(table, partial=True)
        digests = self._digests(tables)
        for table in tables:
            handle = self._open(table.name)
            found = self._chain_drift(handle, table)
            if found:
                raise StateMismatch(f"{self._family}: what was read back is not what was put in place: {found}")
        return digests

    def _commit(self, table: IptTable, *, partial: bool = False) -> bool:
        """Put one table, or with ``partial`` no more than its chains, in place; return whether it differed."""
        attempt = 0
        while True:
            attempt += 1
            # The lock is for the commit alone, unless others were faster twice: they wait then from our reading on.
            whole = attempt > 2
            try:
                with xtables_lock() if whole else nullcontext():
                    return self._apply(table, nullcontext if whole else xtables_lock, partial=partial)
            except self._iptc.IPTCError as error:
                if attempt == ATTEMPTS or "unavailable" not in str(error):
                    raise PlatformError(f"iptables table {table.name} ({self._family}): {error}") from error

    def repair(self, tables: Sequence[IptTable]) -> tuple[list[str], dict[str, str]]:
        """Do as ``apply``; return what was different before, and the digests of what was found to be right."""
        digests = self._digests(tables)
        found = self.drift(tables)
        return found, self.apply(tables)[1] if found else digests

    def drift(self, tables: Sequence[IptTable]) -> list[str]:
        """Return the differences, a line each: ``-`` desired and missing, ``+`` there and not desired."""
        found: list[str] = []
        for table in tables:
            handle = self._open(table.name)
            ensure = [name for name in table.chains if not handle.is_chain(name)]
            found += [f"- -t {table.name} -N {name}" for name in ensure]
            for name in ensure:
                # In memory only, so that the rules which jump there can be built; nothing is committed.
                handle.create_chain(name)
            found += self._chain_drift(handle, table)
            found += self._hook_drift(handle, table)
            found += [f"+ -t {table.name} -N {name}" for name in self._own_chains(handle) if name not in table.chains]
            handle.refresh()
        return [f"{line} ({self._family})" for line in found]

    def counters(self, tables: Sequence[IptTable]) -> dict[str, list[tuple[int, int, int]]]:
        """Return, by table, (line, packets, bytes) of every rule that stands for a line."""
        found: dict[str, list[tuple[int, int, int]]] = {}
        for table in tables:
            handle = self._open(table.name)
            rows = found.setdefault(table.name, [])
            for name, rules in table.chains.items():
                if not handle.is_chain(name):
                    continue
                for rule, (entry, _) in zip(rules, self._entries(handle, name), strict=False):
                    if rule.line is not None:
                        packets, size = self._encoder.counters(entry)
                        rows.append((rule.line, -packets if rule.target == "ACCEPT" else packets, size))
        return found

    def _digests(self, tables: Sequence[IptTable]) -> dict[str, str]:
        own = XtSocket(self._family)
        try:
            blocks = {table.name: own.read(table.name) for table in tables}
        finally:
            own.close()
        return {name: digest(block, LAYOUTS[self._family]) for name, block in blocks.items() if block is not None}

    def _open(self, name: str) -> Any:
        kind = self._iptc.Table6 if self._family is Family.IPV6 else self._iptc.Table
        try:
            # One object per table for the life of the process; refresh() reads the table anew and drops what was
            # changed in memory. A closed one must never be asked anything: libiptc does not check its handle.
            handle = kind(name, autocommit=False)
            handle.refresh()
        except self._iptc.IPTCError as error:
            raise PlatformError(f"the kernel has no iptables table {name} for {self._family}: {error}") from error
        # A rule asks every table there is whether its target is a chain, and opens them (to be committed!) for that.
        for rule in (self._iptc.Rule, self._iptc.Rule6):
            rule.tables = property(lambda _: [handle])
        return handle

    def _entries(self, handle: Any, chain: str) -> list[tuple[bytes, str]]:
        """Return (entry, jump target or "") of every rule of a chain."""
        found = []
        entry = handle.first_rule(chain)
        while entry:
            label = (handle.get_target(entry) or b"").decode()
            jump = label in _VERDICTS or bool(label and handle.is_chain(label))
            found.append((entry_bytes(entry), label if jump else ""))
            entry = handle.next_rule(entry)
        return found

    def _own_chains(self, handle: Any) -> list[str]:
        return [chain.name for chain in handle.chains if chain.name.startswith(self._prefix)]

    def _canonical(self, handle: Any, rule: IptRule) -> bytes:
        label = rule.target if rule.target in _VERDICTS or handle.is_chain(rule.target) else None
        return self._encoder.canonical(self._encoder.entry(rule), label)

    def _read(self, handle: Any, chain: str) -> list[bytes]:
        return [self._encoder.canonical(entry, label) for entry, label in self._entries(handle, chain)]

    def _hooks(self, handle: Any, chain: str) -> list[tuple[int, bytes, str]]:
        """Return (position, entry, target) of our rules in a built-in chain."""
        return [
            (position, entry, label)
            for position, (entry, label) in enumerate(self._entries(handle, chain))
            if label.startswith(self._prefix)
        ]

    def _hooks_right(self, handle: Any, table: IptTable) -> bool:
        for chain in self._built_in(handle):
            wanted = [rule for name, rule in table.hooks if name == chain]
            actual = self._hooks(handle, chain)
            if [position for position, _, _ in actual] != list(range(len(wanted))):
                return False
            have = [self._encoder.canonical(entry, label) for _, entry, label in actual]
            if have != [self._canonical(handle, rule) for rule in wanted]:
                return False
        return True

    def _built_in(self, handle: Any) -> list[str]:
        return [name for name in _BUILT_IN if handle.is_chain(name)]

    def _apply(self, table: IptTable, lock: Callable[[], AbstractContextManager[None]], *, partial: bool) -> bool:
        handle = self._open(table.name)
        own = list(table.chains) if partial else self._own_chains(handle)
        for name in table.chains:
            if name not in own:
                handle.create_chain(name)
        kept: dict[str, dict[bytes, tuple[int, int]]] = {}
        moved: dict[bytes, tuple[int, int]] = {}
        stale = []
        for name, rules in table.chains.items():
            entries = self._entries(handle, name)
            have = [self._encoder.canonical(entry, label) for entry, label in entries]
            if have != [self._canonical(handle, rule) for rule in rules]:
                stale.append(name)
                counters = [self._encoder.counters(entry) for entry, _ in entries]
                kept[name] = dict(zip(have, counters, strict=True))
        extra = [name for name in own if name not in table.chains]
        for name in extra:
            for entry, label in self._entries(handle, name):
                moved[self._encoder.canonical(entry, label)] = self._encoder.counters(entry)
        for values in kept.values():
            moved |= values
        hooks_right = partial or self._hooks_right(handle, table)
        if not stale and not extra and hooks_right and not set(table.chains) - set(own):
            return False
        self._write(handle, table, (stale, extra), (kept, moved), hooks_right)
        with lock():
            handle.commit()
        return True

    def _write(
        self,
        handle: Any,
        table: IptTable,
        chains: tuple[list[str], list[str]],
        counted: tuple[dict[str, dict[bytes, tuple[int, int]]], dict[bytes, tuple[int, int]]],
        hooks_right: bool,
    ) -> None:
        """Change what differs in the table in memory: chains that are stale, and those that are not wanted.

        Unchanged rules take along what they have counted: in their own chain, and a line's rule (there is one of its
        kind in a table) also from another one.
        """
        (stale, extra), (kept, moved) = chains, counted
        if not hooks_right:
            for chain in self._built_in(handle):
                for _, entry, label in self._hooks(handle, chain):
                    named = self._encoder.with_target_name(entry, label)
                    handle.delete_entry(chain, _buffer(named), _buffer(bytearray(b"\xff" * len(named))))
        for name in (*stale, *extra):
            handle.flush_entries(name)
        for name in extra:
            handle.delete_chain(name)
        for name in stale:
            for rule in table.chains[name]:
                data = self._encoder.entry(rule)
                canonical = self._canonical(handle, rule)
                counters = kept[name].get(canonical) or (moved.get(canonical) if rule.line else None)
                if counters is not None:
                    self._encoder.set_counters(data, counters)
                handle.append_entry(name, _buffer(data))
        if not hooks_right:
            positions: dict[str, int] = {}
            for chain, rule in table.hooks:
                position = positions.get(chain, 0)
                handle.insert_entry(chain, _buffer(self._encoder.entry(rule)), position)
                positions[chain] = position + 1

    def _chain_drift(self, handle: Any, table: IptTable) -> list[str]:
        found = []
        for name, rules in table.chains.items():
            if name in table.unknown:
                continue
            want = [self._canonical(handle, rule) for rule in rules]
            found += chain_lines(table.name, name, rules, want, self._read(handle, name))
        return found

    def _hook_drift(self, handle: Any, table: IptTable) -> list[str]:
        return [] if self._hooks_right(handle, table) else hook_lines(table)


def _buffer(data: bytearray) -> Any:
    return (ctypes.c_ubyte * len(data)).from_buffer(data)
