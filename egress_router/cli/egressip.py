"""``egress-router egressip``: see and change which namespace leaves with which address; the controller."""

from __future__ import annotations

from pathlib import Path

import click

from egress_router.cli.egressip_options import PROBE_PORT_OPTION, STATE_OPTION, health_options
from egress_router.cli.egressip_report import report
from egress_router.cli.kubernetes_options import KUBERNETES, client, configuration, identity, source_options
from egress_router.daemon.log import LOGGER
from egress_router.egressip.api import address_key, length_hint, network_range
from egress_router.egressip.assignment.decision import decide, decision_json, decision_text
from egress_router.egressip.controller.controller import Controller
from egress_router.egressip.controller.leader_election import DirectoryLease, DirectoryRecord, record_assignment
from egress_router.egressip.controller.process import run_controller
from egress_router.egressip.controller.watched_nodes import ControllerSettings
from egress_router.egressip.process import set_up_log_from_environment
from egress_router.egressip.source.controller_writer import ControllerWriter, keep_status
from egress_router.egressip.source.directory import DirectorySource, passed_over, patch_object, read_directory
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.kubernetes_record import KubernetesRecord
from egress_router.errors import EgressRouterError, TryAgainError, UsageError
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.kubernetes.lease import KubernetesLease

# ``egress-router egressip controller``: the process that assigns egress IPs to nodes.


@click.command()
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
@click.option("--probe-interval", type=click.FloatRange(0.02, 60), default=0.5, show_default=True, help="Seconds.")
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
    default=15.0,
    show_default=True,
    help="A controller that stands by waits so long for the one that assigns; it counts itself out after 2/3 of it.",
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
    probe_interval: float,
    probe_misses: int,
    probe_returns: int,
    hold_down: float,
    probe_port: int,
    lease_namespace: str,
    lease_name: str,
    lease_seconds: float,
    health_port: int,
    health_address: str,
    page: bool | None,
) -> int:
    """Assign egress IPs to nodes with egressCIDRs for as long as it runs, and away from nodes that die.

    Any number may be started; one assigns, the others stand by. Needs NET_RAW and the nodes' network.
    """
    settings = ControllerSettings(
        _witnesses(witness), probe_interval, probe_misses, probe_returns, hold_down, probe_port
    )
    health = (health_port, health_address)
    shown = health_address in ("127.0.0.1", "::1") if page is None else page
    set_up_log_from_environment()
    if origin == KUBERNETES:
        found = configuration(kubeconfig, api_server)
        lease = KubernetesLease(
            client(found, "controller"),
            lease_namespace or found.namespace,
            lease_name,
            identity(),
            duration=lease_seconds,
            deadline=lease_seconds * 2 / 3,
            retry=lease_seconds * 2 / 15,
            log=LOGGER.info,
        )
        return _on_kubernetes(settings, found, lease, health, page=shown)
    source = DirectorySource(state)
    return run_controller(settings, source, DirectoryRecord(state), DirectoryLease(state), *health, page=shown)


def _on_kubernetes(
    settings: ControllerSettings,
    found: ApiConfiguration,
    lease: KubernetesLease,
    health: tuple[int, str],
    *,
    page: bool,
) -> int:
    """Run the controller on the Kubernetes API; beside it, write EgressNodes, statuses and events."""
    source = KubernetesSource(client(found, "controller"), None, LOGGER.info, keep_status)
    record = KubernetesRecord(client(found, "controller"), source, lease)
    source.offline = record.offline
    writers: list[ControllerWriter] = []

    def started(process: Controller) -> None:
        writer = ControllerWriter(
            client(found, "controller"), source, lease, lambda: process.known.decision, LOGGER.info
        )
        writer.ended = lease.on_lost = process.loop.stop
        writer.start()
        writers.append(writer)

    try:
        run_controller(settings, source, record, lease, *health, started, page=page)
        if lease.lost:
            raise TryAgainError(f"the lease is lost; {lease.holder()} assigns now")
        return 0
    finally:
        for writer in writers:
            writer.stop()
            if writer.fault is not None:
                raise EgressRouterError(f"what is written to the API ended: {writer.fault!r}") from writer.fault


def _witnesses(texts: tuple[str, ...]) -> tuple[str, ...]:
    words = [word for text in texts for word in text.replace(",", " ").split()]
    bad = [word for word in words if address_key(word) is None]
    if bad:
        raise UsageError(f"--witness: not an address of a machine: {', '.join(bad)}")
    return tuple(words)


# ``egress-router egressip``: see and change which namespace leaves with which address.


@click.group(
    name="egressip",
    epilog="""
    \b
    Examples:
      egress-router egressip patch netnamespace toto --egress-ips 192.0.2.45,192.0.2.54
      egress-router egressip patch hostsubnet compute3 --egress-ips 192.0.2.45
      egress-router egressip plan --state /var/lib/egress-router/state --offline compute3
      egress-router egressip controller --witness 192.0.2.1
    """,
)
def command() -> None:
    """Namespace egress IPs: decide and change them."""


command.add_command(controller)
command.add_command(report)


@command.command()
@STATE_OPTION
@click.option("--offline", multiple=True, metavar="NODE", help="Decide as if this node were down; may be repeated.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan(state: Path, offline: tuple[str, ...], output: str) -> int:
    """Print what is decided for the objects in a directory. Changes nothing."""
    cluster = read_directory(state)
    unknown = sorted(set(offline) - cluster.nodes.keys())
    if unknown:
        raise UsageError(f"--offline: there is no HostSubnet {', '.join(unknown)} in {state}")
    for line in passed_over(state, cluster):
        click.echo(f"warning: {line}", err=True)
    decision = decide(cluster, offline)
    click.echo(decision_json(decision) if output == "json" else decision_text(decision))
    return 0


@command.command()
@STATE_OPTION
@click.option("--offline", multiple=True, metavar="NODE", help="Give this node nothing; may be repeated.")
def assign(state: Path, offline: tuple[str, ...]) -> int:
    """Assign egress IPs to nodes with egressCIDRs, and write it down (EgressIPAssignment) for the agents.

    Once; `controller` goes on doing it. Agents hold what is written down, whatever they think is offline.
    """
    decision = record_assignment(state, offline)
    for node, ips in decision.assignment.items():
        click.echo(f"{node}: {', '.join(ips)}")
    return 0


@command.group()
def patch() -> None:
    """Change the egress IPs of a namespace or a node. An empty list ("") takes all away."""


@patch.command()
@click.argument("name")
@STATE_OPTION
@click.option("--egress-ips", required=True, metavar="IP,IP…", help="The namespace's egress IPs, the preferred first.")
def netnamespace(name: str, state: Path, egress_ips: str) -> int:
    """Give a namespace its egress IPs."""
    path = patch_object(state, "NetNamespace", name, {"egressIPs": _addresses(egress_ips)})
    click.echo(f"netnamespace {name} patched ({path})")
    return 0


@patch.command()
@click.argument("name")
@STATE_OPTION
@click.option("--egress-ips", metavar="IP,IP…", help="The egress IPs that the node holds by hand.")
@click.option("--egress-cidrs", metavar="CIDR,CIDR…", help="The node may be given any listed egress IP in these.")
def hostsubnet(name: str, state: Path, egress_ips: str | None, egress_cidrs: str | None) -> int:
    """Give a node the right to hold egress IPs."""
    fields = {}
    if egress_ips is not None:
        fields["egressIPs"] = _addresses(egress_ips)
    if egress_cidrs is not None:
        fields["egressCIDRs"] = _cidrs(egress_cidrs)
    if not fields:
        raise UsageError("give --egress-ips, --egress-cidrs or both")
    path = patch_object(state, "HostSubnet", name, fields)
    click.echo(f"hostsubnet {name} patched ({path})")
    return 0


def _addresses(text: str) -> list[str]:
    words = _words(text)
    bad = [word for word in words if address_key(word) is None]
    if bad:
        raise UsageError(f"--egress-ips: not an address that a node can hold: {', '.join(bad)}{length_hint(bad[0])}")
    return words


def _cidrs(text: str) -> list[str]:
    words = _words(text)
    bad = [word for word in words if network_range(word) is None]
    if bad:
        raise UsageError(f"--egress-cidrs: not a CIDR such as 192.0.2.0/24: {', '.join(bad)}")
    return words


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]
