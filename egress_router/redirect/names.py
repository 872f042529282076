"""The names of the rules in force: kept looked up, and their addresses put in place.

Without names nothing of this is there, and dnspython is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from egress_router.config.values import Address, HostName
from egress_router.daemon.loop import Loop
from egress_router.dns.cache import CacheEntry, CachePolicy
from egress_router.redirect.state import NameState, State
from egress_router.redirect.values import RunConfig

if TYPE_CHECKING:
    from egress_router.dns.watcher import DnsWatcherThread

#: Upper bound of the time between two look-ups of a name: a change is seen after so long whatever its time to live.
REFRESH_MAX = 300.0
#: More addresses of a name than this are not used at once: each is a rule of iptables.
MOST_ADDRESSES = 64
#: Answers come in bunches, at the start above all; this much later the bunch is there.
BUNCH_SECONDS = 0.01
#: Putting answers in place takes at most one part in so many of the time while they keep coming.
SHARE = 3

Answers = dict[HostName, tuple[Address, ...]]


class Names:
    """Follows names for ``loop``, and calls ``changed`` with all answers, the names whose addresses are others now, and
    what to call when they are in place.
    """

    def __init__(
        self,
        run: RunConfig,
        state: State,
        loop: Loop,
        changed: Callable[[Answers, Collection[HostName], Callable[[], None]], None],
    ) -> None:
        self._run = run
        self._state = state
        self._loop = loop
        self._changed = changed
        self._thread: DnsWatcherThread | None = None
        self._answers: Answers = {}
        self._pending: dict[HostName, NameState] = {}
        self._not_before = 0.0

    def follow(self, names: Collection[HostName]) -> None:
        """Keep ``names`` looked up from now on, and no others."""
        if self._thread is None:
            if not names:
                return
            self._thread = self._start()
        watcher = self._thread.watcher
        self._thread.call(watcher.follow, tuple(names))
        self._thread.call(watcher.forget_others, tuple(names))
        self._answers = {name: found for name, found in self._answers.items() if name in names}

    def close(self) -> None:
        """Stop looking anything up."""
        if self._thread is not None:
            self._thread.close()
            self._loop.heartbeats.forget("names")

    def _start(self) -> DnsWatcherThread:
        from egress_router.dns.resolver import Resolver
        from egress_router.dns.usable import unusable
        from egress_router.dns.watcher import DnsWatcherThread

        families = sorted(self._run.router.sources)
        policy = CachePolicy(REFRESH_MAX, float(self._run.name_hold), MOST_ADDRESSES)
        beats = self._loop.heartbeats
        beats.watch("names")
        return DnsWatcherThread(
            Resolver(), families, unusable, self._on_update_in_thread, policy, lambda: beats.beat("names")
        )

    def _on_update_in_thread(self, name: HostName, addresses: tuple[Address, ...], entry: CacheEntry) -> None:
        self._loop.post(lambda: self._on_update(name, addresses, entry))

    def _on_update(self, name: HostName, addresses: tuple[Address, ...], entry: CacheEntry) -> None:
        if name not in self._state.names:
            # It went out of the rules while it was looked up.
            return
        state = after(self._pending.get(name, self._state.names[name]), addresses, entry)
        if name not in self._pending and self._answers.get(name, ()) == addresses:
            self._state.names[name] = state
            return
        if not self._pending:
            self._loop.call_later(max(BUNCH_SECONDS, self._not_before - self._loop.now()), self._put)
        self._answers[name] = addresses
        self._pending[name] = state

    def _put(self) -> None:
        pending, self._pending = self._pending, {}
        started = self._loop.now()

        def done() -> None:
            now = self._loop.now()
            self._not_before = now + (SHARE - 1) * (now - started)
            # Only now, so that nobody is told of addresses that are not in place.
            self._state.names.update((name, state) for name, state in pending.items() if name in self._state.names)

        self._changed(dict(self._answers), pending, done)


def after(state: NameState, addresses: tuple[Address, ...], entry: CacheEntry) -> NameState:
    """Return the state of a name after a look-up."""
    confirmed = [serving.confirmed for serving in entry.serving.values()]
    return NameState(
        addresses,
        max(confirmed) if confirmed else state.answered,
        entry.problem or ("" if addresses else "no address of the answer may be used"),
        state.failures + bool(entry.problem),
        entry.candidate,
    )
