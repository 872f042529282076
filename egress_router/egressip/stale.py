"""Cut the connections of pods that a change leaves without a way, so that what follows takes the new one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from egress_router.kernel.conntrack import Conntrack
from egress_router.kernel.node_tables import load
from egress_router.model.connection import Started
from egress_router.model.node import NOT_OUTSIDE, Network, NodeState
from egress_router.plan.egressip.going_on import goes_on, suspects
from egress_router.render.node_nft import recent_script


def cut_stale(before: NodeState | None, after: NodeState, cluster: Iterable[Network]) -> int:
    """Cut the connections to the outside that ``after`` would drop for ever; return how many. A UDP flow that never
    pauses keeps its entry, and so its former way, as long as it lasts. Raises PlatformError.
    """
    pods = suspects(before, after)
    if not pods:
        return 0
    inside = [*cluster, *(ip_network(text) for texts in NOT_OUTSIDE.values() for text in texts)]

    def stale(started: Started) -> bool:
        return not goes_on(after, str(started.source), started.mark, str(started.answers_to)) and not any(
            started.answers_from in network for network in inside
        )

    with Conntrack() as conntrack:
        found = conntrack.started(map(ip_address, pods), stale)
        # A reply that is on its way would make a connection the other way round.
        load(recent_script({str(started.source) for started in found}))
        return conntrack.end(found)
