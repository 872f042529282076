"""``egress-router egressip controller``: the process that assigns egress IPs to nodes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from egress_router.cli.address_lists import addresses, host_names
from egress_router.cli.egressip_options import (
    DIRECTORY,
    KEYS_OPTION,
    PROBE_PORT_OPTION,
    STATE_OPTION,
    health_options,
    source_options,
)
from egress_router.cli.once import Verb
from egress_router.egressip.controller.process import (
    LEASE_SECONDS,
    STANDBY_LEASE_SECONDS,
    LeaseSettings,
    run_on_directory,
    run_on_kubernetes,
)
from egress_router.egressip.controller.watched_nodes import (
    PROBE_INTERVAL,
    STANDBY_PROBE_INTERVAL,
    ControllerSettings,
)
from egress_router.egressip.process import set_up_log_from_environment
from egress_router.kubernetes.configuration import load_configuration


@click.command(cls=Verb)
@source_options
@STATE_OPTION
@click.option(
    "--witness",
    multiple=True,
    metavar="IP",
    envvar="EGRESS_CONTROLLER_WITNESSES",
    help="An address that answers pings, such as the gateway: as long as it does, silent nodes are down and not the "
    "controller cut off. May be repeated; EGRESS_CONTROLLER_WITNESSES: a list.",
)
@click.option(
    "--probe-interval",
    type=click.FloatRange(0.02, 60),
    default=None,
    show_default=f"{PROBE_INTERVAL:g}, with --standby {STANDBY_PROBE_INTERVAL:g}",
    help="Seconds.",
)
@click.option("--probe-misses", type=click.IntRange(1, 100), default=3, show_default=True, help="In a row: down.")
@click.option("--probe-returns", type=click.IntRange(1, 100), default=3, show_default=True, help="In a row: up again.")
@click.option(
    "--hold-down",
    type=click.FloatRange(0, 600),
    default=10.0,
    show_default=True,
    help="Seconds for which a node that came back is given nothing; twice as long each time it flaps.",
)
@PROBE_PORT_OPTION
@KEYS_OPTION
@click.option(
    "--lease-namespace",
    envvar="EGRESS_LEASE_NAMESPACE",
    default="",
    help="With --source kubernetes: where the Lease is (default: the pod's namespace).",
)
@click.option("--lease-name", default="egress-router-controller", show_default=True, help="Name of the Lease.")
@click.option(
    "--lease-seconds",
    type=click.FloatRange(3, 600),
    default=None,
    show_default=f"{LEASE_SECONDS:g}, with --standby {STANDBY_LEASE_SECONDS:g}",
    help="A controller that stands by waits so long for the one that assigns; it counts itself out after 2/3 of it.",
)
@click.option(
    "--drain-on-cordon/--no-drain-on-cordon",
    default=False,
    show_default=True,
    envvar="EGRESS_DRAIN_ON_CORDON",
    help="With --source kubernetes: a cordoned node hands its addresses over, as `kubectl drain` needs it. "
    "EGRESS_DRAIN_ON_CORDON: on or off.",
)
@click.option(
    "--standby/--no-standby",
    default=False,
    show_default=True,
    envvar="EGRESS_STANDBY",
    help="Each address that is assigned has a standby node, which keeps its connections as well and takes it over. "
    "EGRESS_STANDBY: on or off.",
)
@health_options(9911, "all addresses")
@click.option(
    "--page/--no-page",
    default=None,
    envvar="EGRESS_CONTROLLER_PAGE",
    help="Show the fleet at / of the health port. On by default where --health-address is this machine alone; what is "
    "shown are names of namespaces and nodes, addresses and counts. EGRESS_CONTROLLER_PAGE: on or off.",
)
def controller(
    origin: str,
    kubeconfig: Path | None,
    api_server: str,
    state: Path,
    witness: tuple[str, ...],
    probe_interval: float | None,
    probe_misses: int,
    probe_returns: int,
    hold_down: float,
    probe_port: int,
    keys: Path | None,
    lease_namespace: str,
    lease_name: str,
    lease_seconds: float | None,
    drain_on_cordon: bool,
    standby: bool,
    health_port: int,
    health_address: str,
    page_host: tuple[str, ...],
    page: bool | None,
) -> int:
    """Assign egress IPs to nodes with egressCIDRs for as long as it runs, and away from nodes that die.

    Any number may be started; one assigns, the others stand by. Needs NET_RAW and the nodes' network.
    """
    witnesses = addresses("--witness", witness, "an address of a machine")
    interval = probe_interval or (STANDBY_PROBE_INTERVAL if standby else PROBE_INTERVAL)
    settings = ControllerSettings(
        tuple(witnesses), interval, probe_misses, probe_returns, hold_down, probe_port, keys, standby
    )
    shown = health_address in ("127.0.0.1", "::1") if page is None else page
    hosts = host_names("--page-host", page_host)
    set_up_log_from_environment()
    if origin == DIRECTORY:
        return run_on_directory(settings, state, health_port, health_address, page=shown, hosts=hosts)
    api = load_configuration(os.environ, kubeconfig, api_server)
    seconds = lease_seconds or (STANDBY_LEASE_SECONDS if standby else LEASE_SECONDS)
    lease = LeaseSettings(lease_namespace, lease_name, seconds)
    return run_on_kubernetes(
        settings, api, lease, health_port, health_address, drain_on_cordon=drain_on_cordon, page=shown, hosts=hosts
    )
