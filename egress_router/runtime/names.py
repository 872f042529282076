"""The names of the rules in force: kept looked up, and their addresses put in place.

Without names nothing of this is there, and dnspython is not imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from egress_router.model.addresses import Address
from egress_router.model.names import HostName
from egress_router.model.run import RunConfig
from egress_router.plan.name_answers import Belief, Terms
from egress_router.runtime.state import NameState, State

if TYPE_CHECKING:
    from egress_router.names.thread import FollowerThread

#: Upper bound of the time between two look-ups of a name: a change is seen after so long whatever its time to live.
REFRESH_MAX = 300.0
#: More addresses of a name than this are not used at once: each is a rule of iptables.
MOST_ADDRESSES = 64
#: Answers come in bunches, at the start above all; this much later the bunch is there.
BUNCH_SECONDS = 0.01

Answers = dict[HostName, tuple[Address, ...]]


class Names:
    """Follows names for the running event loop ``loop``, and calls ``changed`` with all answers and the names whose
    addresses are others now.
    """

    def __init__(
        self,
        run: RunConfig,
        state: State,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[Answers, Collection[HostName]], None],
    ) -> None:
        self._run = run
        self._state = state
        self._loop = loop
        self._tell = changed
        self._thread: FollowerThread | None = None
        self._answers: Answers = {}
        self._pending: set[HostName] = set()

    def follow(self, names: Collection[HostName]) -> None:
        """Keep ``names`` looked up from now on, and no others."""
        if self._thread is None:
            if not names:
                return
            self._thread = self._start()
        follower = self._thread.follower
        self._thread.call(follower.follow, tuple(names))
        self._thread.call(follower.forget_others, tuple(names))
        self._answers = {name: found for name, found in self._answers.items() if name in names}

    def close(self) -> None:
        """Stop looking anything up."""
        if self._thread is not None:
            self._thread.close()

    def _start(self) -> FollowerThread:
        from egress_router.names.lookup import Lookup
        from egress_router.names.thread import FollowerThread
        from egress_router.names.usable import unusable

        families = sorted(self._run.router.sources)
        terms = Terms(REFRESH_MAX, float(self._run.name_hold), MOST_ADDRESSES)
        return FollowerThread(Lookup(), families, unusable, self._learnt_there, terms)

    def _learnt_there(self, name: HostName, addresses: tuple[Address, ...], belief: Belief) -> None:
        self._loop.call_soon_threadsafe(self._learnt, name, addresses, belief)

    def _learnt(self, name: HostName, addresses: tuple[Address, ...], belief: Belief) -> None:
        state = self._state.names.get(name)
        if state is None:
            # It went out of the rules while it was looked up.
            return
        self._state.names[name] = after(state, addresses, belief)
        if self._answers.get(name, ()) != addresses:
            if not self._pending:
                self._loop.call_later(BUNCH_SECONDS, self._put)
            self._answers[name] = addresses
            self._pending.add(name)

    def _put(self) -> None:
        names, self._pending = self._pending, set()
        self._tell(dict(self._answers), names)


def after(state: NameState, addresses: tuple[Address, ...], belief: Belief) -> NameState:
    """Return the state of a name after a look-up."""
    confirmed = [serving.confirmed for serving in belief.serving.values()]
    return NameState(
        addresses,
        max(confirmed) if confirmed else state.answered,
        belief.problem or ("" if addresses else "no address of the answer may be used"),
        state.failures + bool(belief.problem),
    )
