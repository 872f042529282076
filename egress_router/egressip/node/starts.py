"""Have a pod that starts wait until the holder of its egress IP translates it: the API tells the holder too late."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from egress_router.daemon.loop import Loop, Timer
from egress_router.egressip.api import Pod
from egress_router.egressip.node.gateways import Gateways
from egress_router.egressip.node.ports import Prober
from egress_router.egressip.node.state import NodeState, Remote
from egress_router.egressip.source.directory import ClusterSource
from egress_router.egressip.source.told_pods import words

#: A holder is waited for so long; seconds.
MOST_WAIT = 0.5


class Starts:
    """Of one agent, for its loop. ``done`` is called with True when all that was told of is translated, with False when
    nobody waits for that any more.
    """

    def __init__(
        self, source: ClusterSource, gateways: Gateways, prober: Prober, loop: Loop, done: Callable[[bool], None]
    ) -> None:
        self._source = source
        self._gateways = gateways
        self._prober = prober
        self._loop = loop
        self._done = done
        #: The pod that was told of last, uid and addresses, and those that a holder has not confirmed.
        self._told: tuple[str, Collection[str]] = ("", ())
        self._open: set[str] = set()
        self._timer: Timer | None = None

    @property
    def waits(self) -> bool:
        """Whether a holder has not confirmed yet."""
        return bool(self._open)

    def tell(self, state: NodeState, me: str, pods: Mapping[tuple[str, str], Pod]) -> bool:
        """Tell the holders of the pod that waits, if it leaves by others; return whether they have to confirm."""
        uid, addresses = waiting = self._source.waiting()
        if addresses and waiting == self._told:
            return self.waits
        self._end()
        by_slot = {gateway.slot: gateway for gateway in state.gateways}
        told: dict[str, dict[str, str]] = {}
        for ip in addresses:
            path = state.paths.get(ip)
            holder = by_slot.get(path.slot) if isinstance(path, Remote) else None
            if holder is None or holder.node not in self._gateways.take_pods:
                continue
            group = next((pod.namespace for pod in pods.values() if pod.node == me and ip in pod.ips), None)
            if group is not None:
                told.setdefault(holder.host_ip, {})[ip] = words(group, uid)
        if told:
            self._told, self._open = waiting, {ip for found in told.values() for ip in found}
            self._prober.tell(told)
            self._timer = self._loop.call_later(MOST_WAIT, self._give_up)
        return self.waits

    def translated(self, pods: Collection[str]) -> None:
        """Take in that a holder translates these."""
        if self._open:
            self._open -= set(pods)
            if not self._open:
                self._end()
                self._done(True)

    def _give_up(self) -> None:
        self._end()
        self._done(False)

    def _end(self) -> None:
        if self._open:
            self._prober.tell({})
        self._open = set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
