"""What the agent has made besides nft tables, watched: changes are heard of at once and put back; whoever makes them
again and again becomes a problem with a name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from egress_router.egressip.node.state import ENCRYPTED, NODE_PROTOCOL, TUNNEL
from egress_router.errors import few
from egress_router.net.rtnetlink.watch import Notice, RouteWatch, Subject

#: So many repairs within so many seconds are no accident any more.
MANY_REPAIRS, WITHIN_SECONDS = 5, 30.0
#: Lines of a difference that a log line or a problem shows.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Heard:
    """What notices were about: ``network``: something that the agent has made, but for ``addresses``, which went away
    from the outside interface. ``parameters``: an IPv4 parameter of another link, or of all, or a
    policy rule of others.
    """

    network: bool = False
    addresses: frozenset[str] = frozenset()
    parameters: bool = False


class NetworkWatch:
    """Hears changes of what the agent has made. ``outside`` is the index of the interface with the egress IPs."""

    def __init__(self, outside: int) -> None:
        self._watch = RouteWatch()
        self._outside = outside
        #: The index of the tunnel's device; 0 while there is none.
        self.tunnel = 0

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._watch.fileno()

    def heard(self, own: int) -> Heard:
        """Take in all notices; what the socket with the netlink port ``own`` has done is no news. Raises
        EgressRouterError.
        """
        notices = self._watch.notices()
        if notices is None:
            # Some were lost, so anything may have happened.
            return Heard(network=True, parameters=True)
        notices = [notice for notice in notices if notice.port != own]
        gone = {str(notice.address) for notice in notices if self._is_lost_address(notice)}
        of_others = (Subject.PARAMETER, Subject.RULE)
        parameters = any(notice.subject in of_others and not self._is_ours(notice) for notice in notices)
        return Heard(any(map(self._is_ours, notices)), frozenset(gone), parameters)

    def _is_ours(self, notice: Notice) -> bool:
        if notice.protocol == NODE_PROTOCOL:
            return True
        return bool(self.tunnel and notice.index == self.tunnel) or notice.name in (TUNNEL, ENCRYPTED)

    def _is_lost_address(self, notice: Notice) -> bool:
        return notice.subject is Subject.ADDRESS and notice.removed and notice.index == self._outside

    def close(self) -> None:
        """Close the socket."""
        self._watch.close()


@dataclass(slots=True)
class TamperingGuard:
    """Counts repairs, to tell an accident from a program that takes things away for ever. Times are seconds."""

    _repairs: deque[float] = field(default_factory=lambda: deque(maxlen=MANY_REPAIRS))
    _last: str = ""

    def repaired(self, lines: Sequence[str], now: float) -> None:
        """Note that ``lines`` differed and were put right."""
        self._repairs.append(now)
        self._last = summary(lines)

    def problem(self, now: float) -> str:
        """Return what an operator has to know, empty when all is well."""
        if len(self._repairs) < MANY_REPAIRS or now - self._repairs[0] > WITHIN_SECONDS:
            return ""
        return (
            f"another program on this node takes away again and again what the agent has made ({MANY_REPAIRS} repairs "
            f"within {WITHIN_SECONDS:g} s, the last: {self._last}); pods lose packets each time. Find it "
            "(`ip monitor`); systemd-networkd needs ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no"
        )


def summary(lines: Sequence[str]) -> str:
    """Return a difference in one line."""
    return few(lines, _SHOWN, "; ")
