"""Keep names looked up, in a thread of their own, and say what serves."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from egress_router.config.fields import not_a_host
from egress_router.config.values import Address, Family, HostName
from egress_router.dns.cache import Belief, Terms, believe, chosen, lapses, without_lapsed
from egress_router.dns.resolver import Lookup
from egress_router.errors import printable

# Keeps names looked up: asks again when an answer's time is over, and says what has changed.

log = logging.getLogger(__name__)

#: Names that are looked up at the same time.
PARALLEL = 32
#: Look-ups a second when there are many names: 1,000 names are asked for every 20 s, whatever their time to live.
MOST_PER_SECOND = 50


Learnt = Callable[[HostName, tuple[Address, ...], Belief], None]


class Follower:
    """Looks up every name it was told to follow, for as long as it is followed, in the event loop ``loop``.

    ``usable`` says why an address of an answer must not be connected to, or None. After every look-up ``learnt`` is
    called with the name, the addresses to use, and the belief that they come from.
    """

    def __init__(
        self,
        lookup: Lookup,
        families: Sequence[Family],
        usable: Callable[[Address], str | None],
        learnt: Learnt,
        loop: asyncio.AbstractEventLoop,
        terms: Terms,
    ) -> None:
        self._lookup = lookup
        self._families = tuple(families)
        self._usable = usable
        self._tell = learnt
        self._loop = loop
        self._terms = terms
        self._slots = asyncio.Semaphore(PARALLEL)
        self._tasks: dict[HostName, asyncio.Task[None]] = {}
        self._beliefs: dict[HostName, Belief] = {}
        self._addresses: dict[HostName, tuple[Address, ...]] = {}

    def follow(self, names: Iterable[HostName]) -> None:
        """Look these names up too from now on."""
        for name in names:
            if name not in self._tasks:
                self._tasks[name] = self._loop.create_task(self._keep(name))

    def forget_others(self, names: Iterable[HostName]) -> list[HostName]:
        """Look nothing up but ``names``; return what is forgotten."""
        forgotten = list(self._tasks.keys() - set(names))
        for name in forgotten:
            self._tasks.pop(name).cancel()
            self._beliefs.pop(name, None)
            self._addresses.pop(name, None)
        return forgotten

    async def _keep(self, name: HostName) -> None:
        belief = Belief()
        while True:
            async with self._slots:
                try:
                    belief = await self._ask(name, belief)
                except Exception:
                    # One strange reply must not end the look-ups of this name for good.
                    log.exception("%s: looking it up failed unexpectedly", name)
                    await asyncio.sleep(1)
            self._learnt(name, belief)
            await asyncio.sleep(max(belief.refresh, len(self._tasks) / MOST_PER_SECOND))

    async def _ask(self, name: HostName, belief: Belief) -> Belief:
        """Look ``name`` up; what lapses while name servers are silent goes out of use on time."""
        asked = self._loop.create_task(self._lookup.look_up(name, self._families))
        try:
            while True:
                end = lapses(belief, self._terms)
                wait = None if end is None else max(0.0, end - time.monotonic())
                done, _ = await asyncio.wait({asked}, timeout=wait)
                if done:
                    return believe(belief, asked.result(), time.monotonic(), self._terms)
                belief = without_lapsed(belief, time.monotonic(), self._terms)
                self._learnt(name, belief)
        finally:
            asked.cancel()

    def _learnt(self, name: HostName, belief: Belief) -> None:
        before = self._beliefs.get(name)
        in_use = self._addresses.get(name, ())
        changed = before is None or before.addresses != belief.addresses
        refused: dict[Address, str] = {}
        addresses = in_use
        if changed:
            refused = {address: why for address in belief.addresses if (why := self._usable(address))}
            addresses = chosen(belief.addresses - refused.keys(), in_use, self._terms.most)
        self._beliefs[name] = belief
        self._addresses[name] = addresses
        self._tell(name, addresses, belief)
        if changed:
            _report_refused(name, refused)
            _report_change(name, in_use, addresses, len(belief.addresses) - len(refused))
        _report_problem(name, before, belief)


def _report_refused(name: HostName, refused: dict[Address, str]) -> None:
    for address, why in refused.items():
        log.warning("%s: %s is not used: it is %s", name, address, why)


def _report_change(name: HostName, before: Sequence[Address], now: Sequence[Address], available: int) -> None:
    if available > len(now):
        log.warning("%s: has %d addresses, %d of them are used", name, available, len(now))
    if set(before) != set(now):
        gone, new = sorted(set(before) - set(now), key=str), sorted(set(now) - set(before), key=str)
        changes = [f"+{address}" for address in new] + [f"-{address}" for address in gone]
        shown = " ".join(changes[:20]) + (" …" if len(changes) > 20 else "")
        log.info("%s: %d address%s (%s)", name, len(now), "" if len(now) == 1 else "es", shown)


def _report_problem(name: HostName, before: Belief | None, belief: Belief) -> None:
    """Log a problem when it starts, when it changes and when it is over; not every time it is seen."""
    if before is not None and before.problem == belief.problem and bool(before.addresses) == bool(belief.addresses):
        return
    if belief.problem:
        serving = f"{len(belief.addresses)} known addresses stay in use" if belief.addresses else "no address serves"
        log.warning("%s: %s; %s", name, printable(belief.problem, 500), serving)
    elif before is not None and before.problem:
        log.info("%s: is answered again", name)


# A Follower in a thread of its own: look-ups go on while the caller is busy, and what they stumble over stays.


class FollowerThread:
    """Runs ``follower``, whose methods only this thread may call: by ``call``. ``learnt`` is called in it too."""

    def __init__(
        self,
        lookup: Lookup,
        families: Sequence[Family],
        usable: Callable[[Address], str | None],
        learnt: Learnt,
        terms: Terms,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self.follower = Follower(lookup, families, usable, learnt, self._loop, terms)
        self._thread = threading.Thread(target=self._run, name="names", daemon=True)
        self._thread.start()

    def call(self, action: Callable[..., object], *arguments: object) -> None:
        """Have the thread call ``action`` soon."""
        self._loop.call_soon_threadsafe(action, *arguments)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Have the thread call ``action`` now and again and again."""

        def turn() -> None:
            self._loop.call_later(seconds, turn)
            action()

        self.call(turn)

    def close(self) -> None:
        """Stop looking anything up."""
        self.call(self._end)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _end(self) -> None:
        self.follower.forget_others(())
        # One turn of the loop for the tasks to end.
        self._loop.call_soon(self._loop.stop)


# Which addresses of an answer may be connected to.


def unusable(address: Address) -> str | None:
    """Say why an address in an answer must not be connected to; None when it may be.

    Whoever controls a name must not reach the pod's own services or the cloud's metadata service through it, or make
    the router connect to itself.
    """
    kind = not_a_host(address)
    if kind:
        return kind
    if address.is_link_local:
        return "a link-local address"
    if address.version == 6 and address.ipv4_mapped is not None:
        return "an IPv4-mapped address"
    # The kernel lets a socket be bound to the pod's own addresses alone.
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return None
    return "an address of this pod"
