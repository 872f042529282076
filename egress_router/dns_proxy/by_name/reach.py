"""Which of several addresses a connection goes to: one that accepts connections, in turn."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import count

from egress_router.config.values import Address, Family, family_of

#: For so many seconds an address that accepted a connection is taken for good, and one that did not for bad.
GOOD_SECONDS = 30.0
BAD_SECONDS = 10.0
#: An attempt may take so long; the next one begins after the delay (RFC 8305, 5, names 250 ms).
CONNECT_SECONDS = 3.0
NEXT_SECONDS = 0.25
#: Addresses tried for one connection, as HAProxy tries four.
ATTEMPTS = 4
MOST_KNOWN = 20_000


class Reach:
    """Knows which addresses accept connections. For one event loop.

    HAProxy is given one address for a connection and cannot turn to another one. So where a name has several, one is
    given that accepted a connection lately, and otherwise some are tried, by a connection that says nothing.
    """

    def __init__(self, sources: Mapping[Family, Address]) -> None:
        self._sources = sources
        self._known: OrderedDict[tuple[Address, int], tuple[bool, float]] = OrderedDict()
        self._turns = count()

    def failed(self, address: Address, port: int) -> None:
        """Take an address for bad: a connection to it failed."""
        self._remember(address, port, accepts=False)

    async def choose(self, addresses: Sequence[Address], port: int) -> Address:
        """Return the one of some allowed addresses to connect to."""
        if len(addresses) == 1:
            return addresses[0]
        first = next(self._turns) % len(addresses)
        in_turn = [*addresses[first:], *addresses[:first]]
        states = {address: self._state(address, port) for address in in_turn}
        good = next((address for address in in_turn if states[address]), None)
        if good is not None:
            return good
        unknown = [address for address in in_turn if states[address] is None]
        return await self._first_of(unknown[:ATTEMPTS], port) or (unknown or in_turn)[0]

    def _state(self, address: Address, port: int) -> bool | None:
        accepts, until = self._known.get((address, port), (None, 0.0))
        return accepts if time.monotonic() < until else None

    async def _first_of(self, addresses: Sequence[Address], port: int) -> Address | None:
        waiting = {
            asyncio.create_task(self._try(address, port, at * NEXT_SECONDS)) for at, address in enumerate(addresses)
        }
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (address := task.result()) is not None:
                        return address
            return None
        finally:
            for task in waiting:
                task.cancel()

    async def _try(self, address: Address, port: int, delay: float) -> Address | None:
        await asyncio.sleep(delay)
        source = self._sources.get(family_of(address))
        local = (str(source), 0) if source else None
        try:
            opened = asyncio.open_connection(str(address), port, local_addr=local)
            _, writer = await asyncio.wait_for(opened, CONNECT_SECONDS)
        except (OSError, TimeoutError):
            self._remember(address, port, accepts=False)
            return None
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self._remember(address, port, accepts=True)
        return address

    def _remember(self, address: Address, port: int, *, accepts: bool) -> None:
        until = time.monotonic() + (GOOD_SECONDS if accepts else BAD_SECONDS)
        self._known[address, port] = (accepts, until)
        self._known.move_to_end((address, port))
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
