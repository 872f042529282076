"""``egress-router egressip explain``: how what a namespace sends to a destination leaves, and why."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import click

from egress_router.cli.address_lists import canonical_addresses
from egress_router.cli.egressip_options import STATE_OPTION
from egress_router.cli.once import Verb
from egress_router.egressip.assignment.decision import decide
from egress_router.egressip.assignment.explain import explain as explained
from egress_router.egressip.source.directory import read_directory
from egress_router.errors import UsageError


@click.command(cls=Verb)
@click.argument("namespace")
@click.argument("destination")
@STATE_OPTION
@click.option("--offline", multiple=True, metavar="NODE", help="Decide as if this node were down; may be repeated.")
def explain(namespace: str, destination: str, state: Path, offline: tuple[str, ...]) -> int:
    """Say how what pods of NAMESPACE send to the address DESTINATION leaves the cluster, and why. Changes nothing.

    DESTINATION is outside the cluster, after services have led the packet to an endpoint.
    """
    found = canonical_addresses("DESTINATION", [destination], "an address of a machine, such as 203.0.113.7")
    if len(found) != 1:
        raise UsageError("DESTINATION: one address, such as 203.0.113.7")
    cluster = read_directory(state)
    unknown = sorted(set(offline) - cluster.nodes.keys())
    if unknown:
        raise UsageError(f"--offline: there is no HostSubnet {', '.join(unknown)} in {state}")
    verdict, *reasons = explained(decide(cluster, offline), namespace, ip_address(found[0]))
    click.echo(f"namespace {namespace} to {found[0]}: {verdict}")
    for line in reasons:
        click.echo(f"    {line}")
    return 0
