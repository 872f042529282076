"""Keeps names looked up, in a thread of its own, and HAProxy's servers equal to the answers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from egress_router.errors import printable
from egress_router.model.addresses import Address, Family
from egress_router.model.dns_proxy import DnsProxyConfig, HostName
from egress_router.plan.dns_proxy_answers import MAX_ADDRESSES, Belief, believe, chosen
from egress_router.proxy.haproxy_servers import ServerSync
from egress_router.proxy.name_lookup import Lookup

log = logging.getLogger(__name__)

#: Names that are looked up at the same time.
PARALLEL = 32
#: Look-ups a second when there are many names: 1,000 names are asked for every 20 s, whatever their time to live.
MOST_PER_SECOND = 50
#: Seconds between two comparisons of all servers with all answers: heals what a lost command left.
FULL_SYNC = 30.0


class NameKeeper:
    """Looks up every name it was told to follow, for as long as it is followed.

    ``usable`` says why an address of an answer must not be connected to, or None. All methods may be called from any
    thread.
    """

    def __init__(self, lookup: Lookup, families: Sequence[Family], usable: Callable[[Address], str | None]) -> None:
        self._lookup = lookup
        self._families = tuple(families)
        self._usable = usable
        self._changed = threading.Condition()
        self._beliefs: dict[HostName, Belief] = {}
        self._addresses: dict[HostName, tuple[Address, ...]] = {}
        self._tasks: dict[HostName, asyncio.Task[None]] = {}
        self._sync: ServerSync | None = None
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(PARALLEL)
        self._thread = threading.Thread(target=self._run, name="name-keeper", daemon=True)
        self._thread.start()

    def follow(self, names: Iterable[HostName]) -> None:
        """Look these names up too from now on."""
        self._loop.call_soon_threadsafe(self._follow, tuple(names))

    def attach(self, config: DnsProxyConfig, socket: Path) -> None:
        """Serve the HAProxy behind ``socket`` from now on, which runs ``config``; forget names it does not have."""
        self._loop.call_soon_threadsafe(self._attach, config, socket)

    def looked_up(self, names: Iterable[HostName]) -> bool:
        """Whether each of ``names`` was looked up once, with whatever outcome."""
        with self._changed:
            return all(name in self._beliefs for name in names)

    def wait(self, names: Sequence[HostName], seconds: float) -> bool:
        """Wait until each of ``names`` was looked up once, for at most ``seconds``; return whether they were."""
        with self._changed:
            return self._changed.wait_for(lambda: all(name in self._beliefs for name in names), seconds)

    def known(self) -> dict[HostName, tuple[Address, ...]]:
        """Return the addresses that should serve now, by name."""
        with self._changed:
            return dict(self._addresses)

    def close(self) -> None:
        """Stop looking anything up."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(timeout=5)

    # In the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._full_sync)
        self._loop.run_forever()
        self._loop.close()

    def _end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        # One turn of the loop for them to end.
        self._loop.call_soon(self._loop.stop)

    def _follow(self, names: Sequence[HostName]) -> None:
        for name in names:
            if name not in self._tasks:
                self._tasks[name] = self._loop.create_task(self._keep(name))

    def _attach(self, config: DnsProxyConfig, socket: Path) -> None:
        self._sync = ServerSync(config, socket)
        self._follow(config.names)
        for name in self._tasks.keys() - set(config.names):
            self._tasks.pop(name).cancel()
            with self._changed:
                self._beliefs.pop(name, None)
                self._addresses.pop(name, None)
        self._sync.run(self.known())

    def _full_sync(self) -> None:
        if self._sync:
            self._sync.run(self.known())
        self._loop.call_later(FULL_SYNC, self._full_sync)

    async def _keep(self, name: HostName) -> None:
        belief = Belief()
        while True:
            async with self._slots:
                try:
                    tried = await self._lookup.look_up(name, self._families)
                    belief = believe(belief, tried, time.monotonic())
                except Exception:
                    # One strange reply must not end the look-ups of this name for good.
                    log.exception("%s: looking it up failed unexpectedly", name)
                    await asyncio.sleep(1)
            self._learnt(name, belief)
            await asyncio.sleep(max(belief.refresh, len(self._tasks) / MOST_PER_SECOND))

    def _learnt(self, name: HostName, belief: Belief) -> None:
        before = self._beliefs.get(name)
        in_use = self._addresses.get(name, ())
        changed = before is None or before.addresses != belief.addresses
        refused: dict[Address, str] = {}
        addresses = in_use
        if changed:
            refused = {address: why for address in belief.addresses if (why := self._usable(address))}
            addresses = chosen(belief.addresses - refused.keys(), in_use)
        with self._changed:
            self._beliefs[name] = belief
            self._addresses[name] = addresses
            self._changed.notify_all()
        if self._sync:
            self._sync.run({name: addresses}, compare=False)
        if changed:
            _report_change(name, in_use, addresses, len(belief.addresses) - len(refused), refused)
        _report_problem(name, before, belief)


def _report_change(
    name: HostName, before: Sequence[Address], now: Sequence[Address], available: int, refused: dict[Address, str]
) -> None:
    for address, why in refused.items():
        log.warning("%s: %s is not used: it is %s", name, address, why)
    if available > MAX_ADDRESSES:
        log.warning("%s: has %d addresses, %d of them are used", name, available, MAX_ADDRESSES)
    if set(before) != set(now):
        gone, new = sorted(set(before) - set(now), key=str), sorted(set(now) - set(before), key=str)
        changes = [f"+{address}" for address in new] + [f"-{address}" for address in gone]
        shown = " ".join(changes[:20]) + (" …" if len(changes) > 20 else "")
        log.info("%s: %d address%s (%s)", name, len(now), "" if len(now) == 1 else "es", shown)


def _report_problem(name: HostName, before: Belief | None, belief: Belief) -> None:
    """Log a problem when it starts, when it changes and when it is over; not every time it is seen."""
    if before is not None and before.problem == belief.problem:
        return
    if belief.problem:
        serving = f"{len(belief.addresses)} known addresses stay in use" if belief.addresses else "no address serves"
        log.warning("%s: %s; %s", name, printable(belief.problem, 500), serving)
    elif before is not None:
        log.info("%s: is answered again", name)
