"""A Follower in a thread of its own: look-ups go on while the caller is busy, and what they stumble over stays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from egress_router.model.addresses import Address, Family
from egress_router.names.follow import Follower, Learnt
from egress_router.names.lookup import Lookup
from egress_router.plan.name_answers import Terms


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
