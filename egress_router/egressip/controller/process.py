"""The controller as a process."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from egress_router.daemon.endpoint import Answer
from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.daemon.page.assets import HTML
from egress_router.daemon.page.query import parse_query
from egress_router.daemon.threads import Threads
from egress_router.egressip.controller.controller import Controller, make_prober
from egress_router.egressip.controller.leader_election import AssignmentRecord, DirectoryLease, DirectoryRecord, Lease
from egress_router.egressip.controller.metrics import ControllerCollector
from egress_router.egressip.controller.watched_nodes import ControllerSettings
from egress_router.egressip.fleet.page import fleet_page
from egress_router.egressip.process import api_client, running, serve, wait_for_objects
from egress_router.egressip.source.controller_writer import ControllerWriter, keep_status
from egress_router.egressip.source.directory import ClusterSource, DirectorySource
from egress_router.egressip.source.drain_guard import DrainGuard
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.kubernetes_record import KubernetesRecord
from egress_router.errors import TryAgainError
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.kubernetes.lease import KubernetesLease


def _fleet_page(controller: Controller, query: str) -> Answer:
    return 200, HTML, fleet_page(controller.fleet(), parse_query(query), controller.ask_form()).encode()


#: A controller that stands by waits so long for one that says nothing; seconds. Where addresses have standbys it is to
#: act well before pods' nodes give connections up (handover.WAIT): the other one may have died together with a holder.
LEASE_SECONDS, STANDBY_LEASE_SECONDS = 15.0, 8.0


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """The Lease object; ``namespace`` empty: that of the pod, and of guard pods. Others wait for ``seconds`` without a
    renewal.
    """

    namespace: str = ""
    name: str = "egress-router-controller"
    seconds: float = LEASE_SECONDS


def run_on_directory(
    settings: ControllerSettings,
    state: Path,
    health_port: int,
    health_address: str,
    *,
    page: bool,
    hosts: Collection[str] = (),
) -> int:
    """Assign egress IPs, with the objects in a directory, until SIGTERM or SIGINT; return 0. ``page``: show the fleet
    at `/`; ``hosts``: see Endpoint. Raises EgressRouterError.
    """
    with running() as (loop, threads):
        source, record, lease = DirectorySource(state), DirectoryRecord(state), DirectoryLease(state)
        served = (health_port, health_address)
        run_controller(settings, source, record, lease, loop, threads, *served, page=page, hosts=hosts)
    return 0


def run_on_kubernetes(
    settings: ControllerSettings,
    api: ApiConfiguration,
    election: LeaseSettings,
    health_port: int,
    health_address: str,
    *,
    drain_on_cordon: bool,
    page: bool,
    hosts: Collection[str] = (),
) -> int:
    """Assign egress IPs, with the objects of the Kubernetes API; beside it, write EgressNodes, statuses and events, and
    let guard pods go (see DrainGuard).
    Returns and raises as ``run_on_directory``, and TryAgainError when the lease is lost.
    """
    with running() as (loop, threads), ExitStack() as stack:
        lease = KubernetesLease(
            api_client(api, "controller"),
            threads.start,
            election.namespace or api.namespace,
            election.name,
            f"{socket.gethostname()}_{uuid.uuid4()}",
            duration=election.seconds,
            deadline=election.seconds * 2 / 3,
            retry=election.seconds * 2 / 15,
            log=LOGGER.info,
        )
        lease.on_lost = loop.stop
        source = KubernetesSource(api_client(api, "controller"), threads.start, None, LOGGER.info, keep_status)
        record = KubernetesRecord(api_client(api, "controller"), source, lease)
        source.offline = record.offline

        def started(controller: Controller) -> None:
            client = api_client(api, "controller")
            writer = ControllerWriter(
                client, source, lease, lambda: controller.known.decision, LOGGER.info, record.epoch
            )
            writer.on_pools = partial(setattr, controller.known, "pools")
            stack.callback(writer.loop.stop)
            writer.loop.start(threads.start)
            namespace = election.namespace or api.namespace
            guard = DrainGuard(client, source, lease, namespace, LOGGER.info, on_cordon=drain_on_cordon)
            stack.callback(guard.stop)
            guard.start(threads.start)

        run_controller(
            settings,
            source,
            record,
            lease,
            loop,
            threads,
            health_port,
            health_address,
            started,
            unheard=source.unheard,
            page=page,
            hosts=hosts,
        )
        if lease.lost:
            raise TryAgainError(f"the lease is lost; {lease.holder()} assigns now")
    return 0


def run_controller(
    settings: ControllerSettings,
    source: ClusterSource,
    record: AssignmentRecord,
    lease: Lease,
    loop: Loop,
    threads: Threads,
    health_port: int,
    health_address: str,
    started: Callable[[Controller], None] = lambda _: None,
    *,
    unheard: Callable[[], set[str]] = set,
    page: bool = False,
    hosts: Collection[str] = (),
) -> None:
    """Assign egress IPs until the loop is stopped. ``started`` is called before; ``unheard``: see Controller. Closes
    the source. Raises EgressRouterError.
    """
    try:
        if wait_for_objects(source, loop):
            source.follow(threads)
            prober = make_prober(settings)
            controller = Controller(settings, source, record, lease, loop, threads, make_prober=prober, unheard=unheard)
            collector = ControllerCollector(controller)
            asked = {"/": partial(_fleet_page, controller)} if page else {}
            serve(health_port, health_address, controller, collector, controller.status, threads, asked, hosts)
            started(controller)
            controller.run()
    finally:
        source.close()
