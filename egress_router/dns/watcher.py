"""Keep names looked up in a thread of its own: ask again when an answer has expired, and tell what changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from egress_router.config.values import Address, Family, HostName
from egress_router.dns.cache import CacheEntry, CachePolicy, expires_at, select_addresses, updated, without_expired
from egress_router.dns.loop_thread import LoopThread, owned_task
from egress_router.dns.resolver import Resolver
from egress_router.errors import printable

log = logging.getLogger(__name__)

#: Names that are looked up at the same time.
PARALLEL = 32
#: Look-ups a second when there are many names: 1,000 names are asked for every 20 s, whatever their time to live.
MOST_PER_SECOND = 50
OnUpdate = Callable[[HostName, tuple[Address, ...], CacheEntry], None]


class DnsWatcher:
    """Looks up every name it was told to follow, for as long as it is followed, in the event loop ``loop``.

    ``usable`` says why an address of an answer must not be connected to, or None. After every look-up ``on_update`` is
    called with the name, the addresses to use, and the entry that they come from.
    """

    def __init__(
        self,
        lookup: Resolver,
        families: Sequence[Family],
        usable: Callable[[Address], str | None],
        on_update: OnUpdate,
        loop: asyncio.AbstractEventLoop,
        policy: CachePolicy,
    ) -> None:
        self._lookup = lookup
        self._families = tuple(families)
        self._usable = usable
        self._tell = on_update
        self._loop = loop
        self._policy = policy
        self._slots = asyncio.Semaphore(PARALLEL)
        self._tasks: dict[HostName, asyncio.Task[None]] = {}
        self._entries: dict[HostName, CacheEntry] = {}
        self._addresses: dict[HostName, tuple[Address, ...]] = {}

    def follow(self, names: Iterable[HostName]) -> None:
        """Look these names up too from now on."""
        for name in names:
            if name not in self._tasks:
                self._tasks[name] = owned_task(self._loop, self._keep(name))

    def forget_others(self, names: Iterable[HostName]) -> list[HostName]:
        """Look nothing up but ``names``; return what is forgotten."""
        forgotten = list(self._tasks.keys() - set(names))
        for name in forgotten:
            self._tasks.pop(name).cancel()
            self._entries.pop(name, None)
            self._addresses.pop(name, None)
        return forgotten

    async def _keep(self, name: HostName) -> None:
        entry = CacheEntry()
        while True:
            async with self._slots:
                try:
                    entry = await self._ask(name, entry)
                except Exception:
                    # One strange reply must not end the look-ups of this name for good.
                    log.exception("%s: looking it up failed unexpectedly", name)
                    await asyncio.sleep(1)
            self._on_update(name, entry)
            await asyncio.sleep(max(entry.refresh, len(self._tasks) / MOST_PER_SECOND))

    async def _ask(self, name: HostName, entry: CacheEntry) -> CacheEntry:
        """Look ``name`` up; what expires while name servers are silent goes out of use on time."""
        asked = self._loop.create_task(self._lookup.resolve(name, self._families))
        try:
            while True:
                end = expires_at(entry, self._policy)
                wait = None if end is None else max(0.0, end - time.monotonic())
                done, _ = await asyncio.wait({asked}, timeout=wait)
                if done:
                    return updated(entry, asked.result(), time.monotonic(), self._policy)
                entry = without_expired(entry, time.monotonic(), self._policy)
                self._on_update(name, entry)
        finally:
            asked.cancel()

    def _on_update(self, name: HostName, entry: CacheEntry) -> None:
        before = self._entries.get(name)
        in_use = self._addresses.get(name, ())
        changed = before is None or before.addresses != entry.addresses
        refused: dict[Address, str] = {}
        addresses = in_use
        if changed:
            refused = {address: why for address in entry.addresses if (why := self._usable(address))}
            addresses = select_addresses(entry.addresses - refused.keys(), in_use, self._policy.most)
        self._entries[name] = entry
        self._addresses[name] = addresses
        self._tell(name, addresses, entry)
        if changed or (before and before.candidate != entry.candidate):
            _report_refused(name, refused)
            _report_change(name, in_use, addresses, len(entry.addresses) - len(refused), entry.answered_as(name))
        _report_problem(name, before, entry)


def _report_refused(name: HostName, refused: dict[Address, str]) -> None:
    for address, why in refused.items():
        log.warning("%s: %s is not used: it is %s", name, address, why)


def _report_change(
    name: HostName, before: Sequence[Address], now: Sequence[Address], available: int, answered_as: str
) -> None:
    if available > len(now):
        log.warning("%s: has %d addresses, %d of them are used", name, available, len(now))
    if set(before) != set(now) or answered_as:
        gone, new = sorted(set(before) - set(now), key=str), sorted(set(now) - set(before), key=str)
        changes = [f"+{address}" for address in new] + [f"-{address}" for address in gone]
        shown = " ".join(changes[:20]) + (" …" if len(changes) > 20 else "")
        full = f", answered as {answered_as}" if answered_as else ""
        log.info("%s: %d address%s (%s)%s", name, len(now), "" if len(now) == 1 else "es", shown or "as before", full)


def _report_problem(name: HostName, before: CacheEntry | None, entry: CacheEntry) -> None:
    """Log a problem when it starts, when it changes and when it is over; not every time it is seen."""
    if before is not None and before.problem == entry.problem and bool(before.addresses) == bool(entry.addresses):
        return
    if entry.problem:
        serving = f"{len(entry.addresses)} known addresses stay in use" if entry.addresses else "no address serves"
        log.warning("%s: %s; %s", name, printable(entry.problem, 500), serving)
    elif before is not None and before.problem:
        log.info("%s: is answered again", name)


class DnsWatcherThread:
    """A DnsWatcher in a thread of its own: look-ups go on while the caller is busy.

    Only the thread may call methods of ``watcher``: have it do so with ``call`` or ``every``, those of LoopThread.
    ``on_update`` is called in it too.
    """

    def __init__(
        self,
        lookup: Resolver,
        families: Sequence[Family],
        usable: Callable[[Address], str | None],
        on_update: OnUpdate,
        policy: CachePolicy,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """``beat`` is called every second in the thread: its heartbeat."""
        self._thread = LoopThread("names", beat)
        self.watcher = DnsWatcher(lookup, families, usable, on_update, self._thread.loop, policy)
        self.call, self.every = self._thread.call, self._thread.every

    def close(self) -> None:
        """Stop looking anything up."""
        self.call(self.watcher.forget_others, ())
        self._thread.stop(5)
