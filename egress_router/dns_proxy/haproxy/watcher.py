"""The names of the DNS proxy in force, looked up in a thread of their own; HAProxy's servers follow the answers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from egress_router.config.values import Address, Family, HostName
from egress_router.dns.cache import CacheEntry, CachePolicy
from egress_router.dns.resolver import Resolver
from egress_router.dns.watcher import DnsWatcherThread
from egress_router.dns_proxy.by_name.addresses import NameAddresses
from egress_router.dns_proxy.by_name.reach import Reach
from egress_router.dns_proxy.by_name.router import NameRouter, RouterFigures
from egress_router.dns_proxy.destinations import DnsProxyConfig
from egress_router.dns_proxy.haproxy.servers import ServerSync
from egress_router.policy.judge import Judge

#: Seconds between two comparisons of all servers with all answers: heals what a lost command left.
FULL_SYNC = 30.0


class BackendWatcher:
    """Looks up every name it was told to follow, for as long as it is followed, and keeps HAProxy's servers equal to
    the answers.

    ``usable`` says why an address of an answer must not be connected to, or None. All methods may be called from any
    thread.
    """

    def __init__(
        self,
        lookup: Resolver,
        families: Sequence[Family],
        usable: Callable[[Address], str | None],
        beat: Callable[[], None] = lambda: None,
        sources: Mapping[Family, Address] | None = None,
    ) -> None:
        """``beat`` is the heartbeat of its thread, ``sources`` what connections by name leave with."""
        self._changed = threading.Condition()
        self._addresses: dict[HostName, tuple[Address, ...]] = {}
        self._entries: dict[HostName, CacheEntry] = {}
        self._failures: Counter[HostName] = Counter()
        self._sync: ServerSync | None = None
        addresses = NameAddresses(lookup, families, CachePolicy())
        self._router = NameRouter(addresses, Reach(sources or {}))
        self._thread = DnsWatcherThread(lookup, families, usable, self._on_update, CachePolicy(), beat)
        self._thread.every(FULL_SYNC, self._full_sync)

    def follow(self, names: Iterable[HostName]) -> None:
        """Look these names up too from now on."""
        self._thread.call(self._thread.watcher.follow, tuple(names))

    def attach(self, config: DnsProxyConfig, socket: Path) -> None:
        """Serve the HAProxy behind ``socket`` from now on, which runs ``config``; forget names it does not have."""
        self._thread.call(self._attach, config, socket)

    def route(self, path: Path, judge: Judge) -> None:
        """Tell the HAProxy that asks at a path where connections by name go, by a policy."""
        self._thread.call(self._router.open, path, judge)

    def judge_by(self, judge: Judge) -> None:
        """Answer all HAProxys by a policy from now on."""
        self._thread.call(self._router.in_force, judge)

    def no_longer_route(self, path: Path) -> None:
        """Stop answering there."""
        self._thread.call(self._router.close, path)

    def unreached(self, address: Address, port: int) -> None:
        """Take in that a connection by name did not reach an address."""
        self._thread.call(self._router.failed, address, port)

    def routed(self) -> RouterFigures:
        """Return how the names that clients asked for fare."""
        return self._router.figures()

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

    def entries(self) -> dict[HostName, CacheEntry]:
        """Return what is believed of each name that was looked up."""
        with self._changed:
            return dict(self._entries)

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
        self._thread.watcher.follow(config.names)
        for name in self._thread.watcher.forget_others(config.names):
            with self._changed:
                self._addresses.pop(name, None)
                self._entries.pop(name, None)
        self._sync.run(self.known())

    def _full_sync(self) -> None:
        if self._sync:
            self._sync.run(self.known())

    def _on_update(self, name: HostName, addresses: tuple[Address, ...], entry: CacheEntry) -> None:
        with self._changed:
            self._addresses[name] = addresses
            self._entries[name] = entry
            self._failures[name] += bool(entry.problem)
            self._changed.notify_all()
        if self._sync:
            self._sync.run({name: addresses}, compare=False)
