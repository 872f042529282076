"""What an agent says about itself, in the form that is written to the Kubernetes API."""

from __future__ import annotations

import time
from functools import partial

from egress_router.egressip.node.agent import Agent
from egress_router.egressip.node.drain import GRACE
from egress_router.egressip.node.interface import interface_subnets
from egress_router.egressip.source.groups import LocalNode
from egress_router.egressip.source.node_writer import NodeReport

#: The subnets of the interface are read again after so long; seconds.
SUBNETS_EVERY = 30.0


class NodeReporter:
    """Of one agent; for the thread that writes."""

    def __init__(self, agent: Agent, me: LocalNode, interface: str) -> None:
        self._agent = agent
        self._me = me
        self._interface = interface
        self._subnets: tuple[str, ...] = ()
        self._subnets_at = float("-inf")

    def report(self) -> NodeReport:
        """Return the state of now."""
        agent, now = self._agent, time.monotonic()
        if now - self._subnets_at > SUBNETS_EVERY:
            self._subnets, self._subnets_at = interface_subnets(self._interface), now
        applied = agent.dataplane.applied
        held = frozenset(applied.assigned) if applied is not None else frozenset()
        mine = agent.known.decision.nodes.get(self._me.name)
        pending = {
            ip: ("Pending", "not on the interface yet") for ip in (mine.claims if mine else ()) if ip not in held
        }
        pending |= {ip: ("DuplicateAddress", why) for ip, why in agent.local.duplicates.items()}
        pending |= {ip: ("NotInSubnet", why) for ip, why in agent.local.outside_subnets.items()}
        left = agent.node_drain.left
        return NodeReport(
            agent.known.ready and not agent.known.errors,
            tuple(agent.reasons(now)),
            self._me.host_ips,
            self._subnets,
            held,
            pending,
            agent.node_drain.draining,
            agent.drained(),
            None if left is None else left.total(),
            agent.node_drain.by_api,
        )

    def drain(self, wanted: bool) -> None:
        """Start or end a drain, as the EgressNode says."""
        agent = self._agent
        agent.loop.post(partial(agent.drain, GRACE, by_api=True) if wanted else agent.undrain)
