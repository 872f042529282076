"""``egress-router egressip report``: the fleet as one HTML file."""

from __future__ import annotations

import time
from pathlib import Path

import click

from egress_router.cli.egressip_options import STATE_OPTION
from egress_router.cli.once import Verb
from egress_router.cli.output import write_report
from egress_router.daemon.page.query import Query
from egress_router.egressip.assignment.decision import decide, with_recorded_assignment
from egress_router.egressip.fleet.history import History
from egress_router.egressip.fleet.page import fleet_page
from egress_router.egressip.fleet.view import fleet_view
from egress_router.egressip.health import Health
from egress_router.egressip.source.directory import read_directory
from egress_router.errors import UsageError


@click.command(cls=Verb)
@STATE_OPTION
@click.option("--offline", multiple=True, metavar="NODE", help="Show it as if this node were down; may be repeated.")
@click.option("--html", "path", required=True, metavar="FILE", help="The file to write; - for standard output.")
@click.option("--redact", is_flag=True, help="No names and addresses: each becomes a number, for a ticket.")
def report(state: Path, offline: tuple[str, ...], path: str, *, redact: bool) -> int:
    """Write who leaves with which egress IP, and what is wrong, as one HTML file that needs nothing else.

    From the objects alone: nothing is probed, and the history is that of the controller's own page.
    """
    cluster = read_directory(state)
    if unknown := sorted(set(offline) - cluster.nodes.keys()):
        raise UsageError(f"--offline: there is no HostSubnet {', '.join(unknown)} in {state}")
    decision = decide(with_recorded_assignment(cluster) if cluster.assignment else cluster, offline)
    fleet = fleet_view(cluster, decision, dict.fromkeys(offline, Health.DOWN), History(), time.time(), probed=False)
    text = fleet_page(fleet, Query(report=True, redact=redact))
    if not write_report(path, text):
        return 0
    addresses, nodes = len(fleet.addresses), len(fleet.nodes)
    counts = f"{addresses} egress IP{'s' * (addresses != 1)}, {nodes} node{'s' * (nodes != 1)}"
    click.echo(f"{path}: {counts}; {fleet.level.word}")
    return 0
