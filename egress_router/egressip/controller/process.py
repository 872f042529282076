"""The controller as a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from urllib.parse import parse_qs

from egress_router.daemon.endpoint import Answer
from egress_router.egressip.controller.controller import Controller, make_prober
from egress_router.egressip.controller.leader_election import AssignmentRecord, Lease
from egress_router.egressip.controller.metrics import ControllerCollector
from egress_router.egressip.controller.watched_nodes import ControllerSettings
from egress_router.egressip.fleet.page import content_security_policy, fleet_page
from egress_router.egressip.process import running, serve, wait_for_objects
from egress_router.egressip.source.directory import ClusterSource

#: What HTML of ours may do, and who may keep or frame it.
HTML_HEADERS = {
    "Content-Security-Policy": content_security_policy(),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def _fleet_page(controller: Controller, query: str) -> Answer:
    wanted = parse_qs(query, max_num_fields=4).get("q", [""])[0]
    return 200, "text/html; charset=utf-8", fleet_page(controller.fleet(), wanted).encode()


def run_controller(
    settings: ControllerSettings,
    source: ClusterSource,
    record: AssignmentRecord,
    lease: Lease,
    health_port: int,
    health_address: str,
    started: Callable[[Controller], None] = lambda _: None,
    *,
    page: bool = False,
) -> int:
    """Assign egress IPs until SIGTERM or SIGINT; return 0. ``started`` is called before its loop. ``page``: show the
    fleet at `/`. Closes the source. Raises EgressRouterError.
    """
    with running() as (loop, threads):
        try:
            if wait_for_objects(source, loop):
                source.follow(threads)
                controller = Controller(
                    settings, source, record, lease, loop, threads, make_prober=make_prober(settings)
                )
                collector = ControllerCollector(controller)
                asked = {"/": partial(_fleet_page, controller)} if page else {}
                serve(
                    health_port, health_address, controller, collector, controller.status, threads, asked, HTML_HEADERS
                )
                started(controller)
                controller.run()
        finally:
            source.close()
    return 0
