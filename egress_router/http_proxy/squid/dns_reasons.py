"""Why a name has no address, asked for the access log: Squid knows, and does not say.

A thread of its own asks the pod's resolver once more about names that failed. Answers are kept for some seconds, and
when more names wait than can be asked, the log does without: nothing waits for this but the line itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from egress_router.config.fields import Invalid, host_name
from egress_router.config.values import Family, HostName
from egress_router.dns.cache import CandidateReplies, Failure, NegativeAnswer
from egress_router.dns.loop_thread import LoopThread, owned_task
from egress_router.dns.resolver import Resolver
from egress_router.errors import printable

log = logging.getLogger(__name__)

#: Names that are asked about at the same time, and that wait or are known.
PARALLEL = 16
MOST = 1000
KEEP_SECONDS = 5.0
PATIENCE_SECONDS = 4.0
#: Of the thread, as /healthz names it.
NAME = "dns-reasons"


class DnsReasons:
    """Looks up why names fail. All methods may be called from any thread."""

    def __init__(
        self, families: Sequence[Family], resolver: Resolver | None = None, beat: Callable[[], None] = lambda: None
    ) -> None:
        """``beat`` is the heartbeat of the thread, called every second."""
        self._families = tuple(families)
        self._resolver = resolver or Resolver()
        self._known: dict[str, tuple[float, str]] = {}
        self._waiting: dict[str, list[Callable[[str], None]]] = {}
        self._slots = asyncio.Semaphore(PARALLEL)
        self._thread = LoopThread(NAME, beat)

    def tell(self, host: str, deliver: Callable[[str], None]) -> None:
        """Have ``deliver`` called with the reason, "" when it cannot be told: at once or soon, from some thread."""
        self._thread.call(self._tell, host, deliver)

    def close(self, seconds: float) -> None:
        """Deliver what waits, for at most so long, and end."""
        end = time.monotonic() + seconds
        while self._waiting and time.monotonic() < end:
            time.sleep(0.02)
        self._thread.stop(1)

    def _tell(self, host: str, deliver: Callable[[str], None]) -> None:
        since, reason = self._known.get(host, (-KEEP_SECONDS, ""))
        if time.monotonic() - since < KEEP_SECONDS:
            deliver(reason)
        elif host in self._waiting:
            self._waiting[host].append(deliver)
        elif len(self._waiting) >= MOST:
            deliver("")
        else:
            self._waiting[host] = [deliver]
            owned_task(self._thread.loop, self._ask(host))

    async def _ask(self, host: str) -> None:
        reason = ""
        try:
            async with self._slots:
                # Squid asks for the name as it is.
                name = host_name(host)
                if not isinstance(name, Invalid):
                    absolute = HostName(name.text.removesuffix(".") + ".")
                    asked = self._resolver.resolve(absolute, self._families)
                    reason = reason_in(await asyncio.wait_for(asked, PATIENCE_SECONDS))
        except TimeoutError:
            reason = "no reply in time"
        except Exception:
            log.exception("%s: asking why it has no address failed by an error that nobody foresaw", printable(host))
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[host] = (time.monotonic(), reason)
        for deliver in self._waiting.pop(host, ()):
            deliver(reason)


def reason_in(replies: Sequence[CandidateReplies]) -> str:
    """Return why there was no address; that there is one by now, when there is."""
    reasons: dict[str, None] = {}
    for reply in (reply for one in replies for reply in one.replies.values()):
        if not isinstance(reply, NegativeAnswer | Failure):
            return "it has an address by now"
        reasons[reply.why] = None
    return "; ".join(reasons)
