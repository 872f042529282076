"""What names that clients ask for resolve to, kept for their time to live."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from egress_router.config.values import Address, Family, HostName
from egress_router.dns.cache import CacheEntry, CachePolicy, updated
from egress_router.dns.resolver import Resolver
from egress_router.errors import printable

#: Names that are remembered, and looked up at the same time.
MOST_NAMES = 10_000
PARALLEL = 100


@dataclass(frozen=True, slots=True)
class Looked:
    """The addresses that serve, in a stable order, and what is wrong with the last look-up ("": nothing)."""

    addresses: tuple[Address, ...]
    problem: str


class NameAddresses:
    """Looks names up when they are asked for. For one event loop.

    Answers are used as for the names of lines (``dns.cache``): until their time to live ends, and the last good one
    longer while look-ups fail. Nothing is looked up that nobody asks for.
    """

    def __init__(self, resolver: Resolver, families: Sequence[Family], policy: CachePolicy | None = None) -> None:
        self._resolver = resolver
        self._families = tuple(families)
        self._policy = policy or CachePolicy()
        self._known: OrderedDict[str, tuple[CacheEntry, float]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[CacheEntry]] = {}
        self._slots = asyncio.Semaphore(PARALLEL)

    def __len__(self) -> int:
        return len(self._known)

    async def look_up(self, host: str) -> Looked:
        """Return the addresses of a name, asked for as it is and as nothing else."""
        entry, until = self._known.get(host, (CacheEntry(), 0.0))
        if time.monotonic() >= until:
            task = self._asking.get(host)
            if task is None:
                task = self._asking[host] = asyncio.get_running_loop().create_task(self._ask(host, entry))
                task.add_done_callback(lambda _: self._asking.pop(host, None))
            # Who asked may leave; others wait for the same answer.
            entry = await asyncio.shield(task)
        addresses = sorted(entry.addresses, key=lambda address: (address.version, int(address)))
        return Looked(tuple(addresses[: self._policy.most]), printable(entry.problem))

    async def _ask(self, host: str, before: CacheEntry) -> CacheEntry:
        async with self._slots:
            replies = await self._resolver.resolve(HostName(f"{host}."), self._families)
        now = time.monotonic()
        entry = updated(before, replies, now, self._policy)
        self._known[host] = (entry, now + entry.refresh)
        self._known.move_to_end(host)
        while len(self._known) > MOST_NAMES:
            self._known.popitem(last=False)
        return entry
