"""The controller as a process."""

from __future__ import annotations

from collections.abc import Callable

from egress_router.egressip.controller.controller import Controller, make_prober
from egress_router.egressip.controller.leader_election import AssignmentRecord, Lease
from egress_router.egressip.controller.metrics import ControllerCollector
from egress_router.egressip.controller.watched_nodes import ControllerSettings
from egress_router.egressip.process import running, serve, wait_for_objects
from egress_router.egressip.source.directory import ClusterSource


def run_controller(
    settings: ControllerSettings,
    source: ClusterSource,
    record: AssignmentRecord,
    lease: Lease,
    health_port: int,
    health_address: str,
    started: Callable[[Controller], None] = lambda _: None,
) -> int:
    """Assign egress IPs until SIGTERM or SIGINT; return 0. ``started`` is called before its loop. Closes the source.
    Raises EgressRouterError.
    """
    with running() as (loop, threads):
        try:
            if wait_for_objects(source, loop):
                controller = Controller(
                    settings, source, record, lease, loop, threads, make_prober=make_prober(settings)
                )
                collector = ControllerCollector(controller)
                serve(health_port, health_address, controller, collector, controller.status, threads)
                started(controller)
                controller.run()
        finally:
            source.close()
    return 0
