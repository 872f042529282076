"""Keeps names looked up, in a thread of its own, and HAProxy's servers equal to the answers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from egress_router.model.addresses import Address, Family
from egress_router.model.dns_proxy import DnsProxyConfig
from egress_router.model.names import HostName
from egress_router.names.lookup import Lookup
from egress_router.names.thread import FollowerThread
from egress_router.plan.name_answers import Belief, Terms
from egress_router.proxy.haproxy_servers import ServerSync

#: Seconds between two comparisons of all servers with all answers: heals what a lost command left.
FULL_SYNC = 30.0


class NameKeeper:
    """Looks up every name it was told to follow, for as long as it is followed.

    ``usable`` says why an address of an answer must not be connected to, or None. All methods may be called from any
    thread.
    """

    def __init__(self, lookup: Lookup, families: Sequence[Family], usable: Callable[[Address], str | None]) -> None:
        self._changed = threading.Condition()
        self._addresses: dict[HostName, tuple[Address, ...]] = {}
        self._beliefs: dict[HostName, Belief] = {}
        self._failures: Counter[HostName] = Counter()
        self._sync: ServerSync | None = None
        self._thread = FollowerThread(lookup, families, usable, self._learnt, Terms())
        self._thread.every(FULL_SYNC, self._full_sync)

    def follow(self, names: Iterable[HostName]) -> None:
        """Look these names up too from now on."""
        self._thread.call(self._thread.follower.follow, tuple(names))

    def attach(self, config: DnsProxyConfig, socket: Path) -> None:
        """Serve the HAProxy behind ``socket`` from now on, which runs ``config``; forget names it does not have."""
        self._thread.call(self._attach, config, socket)

    def looked_up(self, names: Iterable[HostName]) -> bool:
        """Whether each of ``names`` was looked up once, with whatever outcome."""
        with self._changed:
            return all(name in self._addresses for name in names)

    def wait(self, names: Sequence[HostName], seconds: float) -> bool:
        """Wait until each of ``names`` was looked up once, for at most ``seconds``; return whether they were."""
        with self._changed:
            return self._changed.wait_for(lambda: self.looked_up(names), seconds)

    def known(self) -> dict[HostName, tuple[Address, ...]]:
        """Return the addresses that should serve now, by name."""
        with self._changed:
            return dict(self._addresses)

    def beliefs(self) -> dict[HostName, Belief]:
        """Return what is believed of each name that was looked up."""
        with self._changed:
            return dict(self._beliefs)

    def failures(self, name: HostName) -> int:
        """Return how many look-ups of a name brought no answer."""
        with self._changed:
            return self._failures[name]

    def close(self) -> None:
        """Stop looking anything up."""
        self._thread.close()

    # In the thread

    def _attach(self, config: DnsProxyConfig, socket: Path) -> None:
        self._sync = ServerSync(config, socket)
        self._thread.follower.follow(config.names)
        for name in self._thread.follower.forget_others(config.names):
            with self._changed:
                self._addresses.pop(name, None)
                self._beliefs.pop(name, None)
        self._sync.run(self.known())

    def _full_sync(self) -> None:
        if self._sync:
            self._sync.run(self.known())

    def _learnt(self, name: HostName, addresses: tuple[Address, ...], belief: Belief) -> None:
        with self._changed:
            self._addresses[name] = addresses
            self._beliefs[name] = belief
            self._failures[name] += bool(belief.problem)
            self._changed.notify_all()
        if self._sync:
            self._sync.run({name: addresses}, compare=False)
