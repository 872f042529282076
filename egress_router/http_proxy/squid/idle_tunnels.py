"""Which tunnels ended because nobody said anything: Squid closes them without a word in its log.

The kernel knows when data last passed on a client's connection. It is asked now and again, and when a tunnel's line
comes that ended EGRESS_HTTP_PROXY_IDLE_TIMEOUT after that moment, silence was what ended it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from egress_router.config.values import Address
from egress_router.net.socket_diag import Silence, silences

#: So many looks in the time that ends a tunnel, and seconds between two at least and at most.
LOOKS = 8
LEAST_SECONDS, MOST_SECONDS = 0.5, 60.0
#: Seconds that Squid may end a tunnel before and after the limit by the kernel's clock: its own has whole seconds, it
#: looks once in each, and a busy machine makes it late.
EARLY, LATE = 1.5, 3.0


class IdleTunnels:
    """Remembers when clients' connections were last heard. ``told`` may be called from any thread."""

    def __init__(
        self,
        port: int,
        timeout: int,
        look: Callable[[int], list[Silence]] = silences,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``port`` is the proxy's, ``timeout`` EGRESS_HTTP_PROXY_IDLE_TIMEOUT in seconds, ``clock`` that of the log."""
        self._port, self._timeout = port, timeout
        self._look, self._clock = look, clock
        self._heard: dict[tuple[Address, int], float] = {}
        self.interval = min(max(timeout / LOOKS, LEAST_SECONDS), MOST_SECONDS)

    def look(self) -> None:
        """Ask the kernel, and forget what was gone the time before as well. Raises OSError."""
        now = self._clock()
        heard = {(one.peer, one.peer_port): now - one.seconds for one in self._look(self._port)}
        # Lines of what has just ended are still to come.
        kept = {key: at for key, at in self._heard.items() if key not in heard and now - at < 2 * self._timeout + 10}
        self._heard = kept | heard

    def was_idle(self, client: Address, port: int, ended: float) -> bool:
        """Return whether the tunnel of a client that ended at a time did so for its silence."""
        at = self._heard.get((client, port))
        return at is not None and -EARLY <= ended - at - self._timeout <= LATE

    def keep_looking(self, beat: Callable[[], None]) -> None:
        """Look now and again, without end: the body of a thread."""
        while True:
            beat()
            self.look()
            time.sleep(self.interval)
