"""``egress-router node``: the agent of one node, and questions to it."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from pathlib import Path

import click
from click.core import ParameterSource

from egress_router.cli.address_lists import canonical_addresses, host_names, words
from egress_router.cli.egressip_options import (
    DIRECTORY,
    KEYS_OPTION,
    PROBE_PORT_OPTION,
    STATE_OPTION,
    health_options,
    source_options,
)
from egress_router.cli.once import VerbGroup
from egress_router.config.inputs import Problems
from egress_router.config.values import Network
from egress_router.egressip.node.cluster_networks import cluster_networks
from egress_router.egressip.node.control import ask
from egress_router.egressip.node.drain import GRACE
from egress_router.egressip.node.drain_wait import drain_node
from egress_router.egressip.node.guard import guard_script, guard_unit
from egress_router.egressip.node.leave import kept_script, leave_unit
from egress_router.egressip.node.marks import parse_marks
from egress_router.egressip.node.process import run_on_directory, run_on_kubernetes
from egress_router.egressip.node.state import TUNNEL_PORT, WIREGUARD_PORT, NodeSettings
from egress_router.egressip.node.status import is_well, status_text
from egress_router.egressip.node.uninstall import uninstall_node
from egress_router.egressip.process import set_up_log_from_environment
from egress_router.errors import UsageError
from egress_router.kubernetes.configuration import load_configuration
from egress_router.kubernetes.nri import SOCKET as NRI_SOCKET

SOCKET_OPTION = click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    envvar="EGRESS_NODE_SOCKET",
    default=Path("/run/egress-router/node.sock"),
    show_default=True,
    help="The agent's control socket; EGRESS_NODE_SOCKET sets it too.",
)
CLUSTER_OPTION = click.option(
    "--cluster",
    multiple=True,
    metavar="CIDR",
    help="A network of pods, services or nodes, which is never left; may be repeated. EGRESS_CLUSTER_NETWORKS: a list.",
    envvar="EGRESS_CLUSTER_NETWORKS",
)


@click.group(
    name="node",
    cls=VerbGroup,
    invoke_without_command=True,
    epilog="""
    \b
    Examples:
      egress-router node --node compute1 --state /var/lib/egress-router/state
      egress-router node --source kubernetes --cluster 10.128.0.0/14,172.30.0.0/16,192.0.2.0/24
      egress-router node guard --cluster 10.128.0.0/14 > /etc/egress-router/guard.nft
      egress-router node leave --unit > /etc/systemd/system/egress-router-leave.service
      egress-router node status
      egress-router node drain
    """,
)
@click.option(
    "--node",
    envvar="EGRESS_NODE",
    default=socket.gethostname,
    help="Name of this node's HostSubnet or Node.",
)
@source_options
@STATE_OPTION
@click.option(
    "--host-ip",
    "host_ips",
    multiple=True,
    envvar="EGRESS_HOST_IPS",
    metavar="IP",
    help="With --source kubernetes: this node's own address, the tunnel's first; may be repeated (default: those of "
    "--interface). EGRESS_HOST_IPS: a list.",
)
@click.option(
    "--interface", envvar="EGRESS_NODE_INTERFACE", default="eth0", show_default=True, help="Outside interface."
)
@CLUSTER_OPTION
@click.option(
    "--unknown-pods",
    type=click.Choice(["drop", "pass"]),
    default="drop",
    show_default=True,
    help="What happens to a pod that no object tells of.",
)
@click.option("--probe-interval", type=click.FloatRange(0.02, 10), default=0.08, show_default=True, help="Seconds.")
@click.option("--probe-misses", type=click.IntRange(1, 100), default=4, show_default=True, help="In a row: down.")
@click.option("--probe-returns", type=click.IntRange(1, 100), default=5, show_default=True, help="In a row: up again.")
@PROBE_PORT_OPTION
@KEYS_OPTION
@click.option(
    "--tunnel-port",
    type=click.IntRange(1, 65535),
    envvar="EGRESS_TUNNEL_PORT",
    default=TUNNEL_PORT,
    show_default=True,
    help="UDP, the tunnel between nodes; the same on every node. EGRESS_TUNNEL_PORT sets it too.",
)
@click.option(
    "--tunnel-encryption",
    "encryption",
    type=click.Choice(["off", "wireguard"]),
    envvar="EGRESS_TUNNEL_ENCRYPTION",
    default="off",
    show_default=True,
    help="Encrypt the tunnel between nodes; needs --agent-keys; the same on every node. EGRESS_TUNNEL_ENCRYPTION sets "
    "it too.",
)
@click.option(
    "--wireguard-port",
    type=click.IntRange(1, 65535),
    envvar="EGRESS_WIREGUARD_PORT",
    default=WIREGUARD_PORT,
    show_default=True,
    help="UDP, the encrypted tunnel between nodes; the same on every node. EGRESS_WIREGUARD_PORT sets it too.",
)
@click.option(
    "--mark",
    envvar="EGRESS_MARK",
    default="0x20000000/0xf0000000",
    show_default=True,
    metavar="VALUE/MASK",
    help="Which marks of packets and connections are the agent's; EGRESS_MARK sets it too.",
)
@click.option(
    "--mark-slots",
    envvar="EGRESS_MARK_SLOTS",
    default="0x0fff0000",
    show_default=True,
    metavar="MASK",
    help="Bits of such marks that number the holders; EGRESS_MARK_SLOTS sets it too.",
)
@click.option(
    "--dad",
    type=click.Choice(["on", "off"]),
    envvar="EGRESS_DAD",
    default="on",
    show_default=True,
    help="Ask whether another machine has an egress IP before it is claimed; off where a router answers for all.",
)
@click.option(
    "--nri",
    type=click.Choice(["auto", "on", "off"]),
    envvar="EGRESS_NRI",
    default="auto",
    show_default=True,
    help="With --source kubernetes: hear of pods from the container runtime before they start, so that their first "
    "packets are right. auto: where it listens at --nri-socket; on: that it does not is a problem. EGRESS_NRI sets it "
    "too.",
)
@click.option(
    "--nri-socket",
    type=click.Path(path_type=Path),
    envvar="EGRESS_NRI_SOCKET",
    default=NRI_SOCKET,
    show_default=True,
    help="Where containerd or CRI-O listens for plugins; EGRESS_NRI_SOCKET sets it too.",
)
@health_options(9910, "the node's hostIP")
@SOCKET_OPTION
@click.pass_context
def command(
    ctx: click.Context,
    node: str,
    origin: str,
    kubeconfig: Path | None,
    api_server: str,
    state: Path,
    host_ips: tuple[str, ...],
    interface: str,
    cluster: tuple[str, ...],
    unknown_pods: str,
    probe_interval: float,
    probe_misses: int,
    probe_returns: int,
    probe_port: int,
    keys: Path | None,
    tunnel_port: int,
    encryption: str,
    wireguard_port: int,
    mark: str,
    mark_slots: str,
    dad: str,
    nri: str,
    nri_socket: Path,
    health_port: int,
    health_address: str,
    page_host: tuple[str, ...],
    path: Path,
) -> int:
    """Run the agent that gives this node's pods their egress IPs (root, the host's network)."""
    if ctx.invoked_subcommand is not None:
        return 0
    settings = NodeSettings(
        node,
        interface,
        _networks(ctx, cluster),
        unknown_pods == "pass",
        probe_interval,
        probe_misses,
        probe_returns,
        probe_port,
        dad == "on",
        parse_marks(mark, mark_slots),
        tunnel_port,
        keys,
        encryption == "wireguard",
        wireguard_port,
    )
    if settings.encrypted and keys is None:
        raise UsageError(
            "--tunnel-encryption wireguard needs --agent-keys: agents tell each other the keys of the tunnel, and one "
            "that is not signed could be anybody's"
        )
    if origin == DIRECTORY and nri == "on":
        raise UsageError("--nri on needs --source kubernetes: in a directory pods are those of its files")
    hosts = host_names("--page-host", page_host)
    set_up_log_from_environment()
    if origin == DIRECTORY:
        return run_on_directory(settings, state, path, health_port, health_address, hosts)
    if settings.pass_unknown:
        raise UsageError("--unknown-pods pass: with --source kubernetes an address that no pod has is always dropped")
    own = canonical_addresses("--host-ip", host_ips, "the address of a node")
    api = load_configuration(os.environ, kubeconfig, api_server)
    runtime = None if nri == "off" else nri_socket
    return run_on_kubernetes(
        settings, api, own, path, health_port, health_address, runtime, nri_required=nri == "on", hosts=hosts
    )


def _networks(ctx: click.Context, texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Return the networks of --cluster. Raises UsageError, or ConfigurationError when the variable is wrong."""
    problems = Problems()
    if ctx.get_parameter_source("cluster") is ParameterSource.ENVIRONMENT:
        found = cluster_networks(words(texts), "EGRESS_CLUSTER_NETWORKS", problems)
        problems.raise_if_any()
        return found
    found = cluster_networks(words(texts), "--cluster", problems)
    if problems.errors:
        raise UsageError("\n".join(map(str, problems.errors)))
    return found


@command.command()
@SOCKET_OPTION
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(path: Path, output: str) -> int:
    """Show namespaces, addresses, holders and their health; problems first. Ends with 1 when there is one."""
    answer = ask(path, "status")
    click.echo(json.dumps(answer, indent=2, sort_keys=True) if output == "json" else status_text(answer))
    return 0 if is_well(answer) else 1


@command.command()
@SOCKET_OPTION
@click.option(
    "--grace",
    type=click.FloatRange(0, 86400),
    default=GRACE,
    show_default=True,
    help="Seconds that connections are given to end; 0: none.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="Seconds until nothing new may leave by this node.",
)
def drain(path: Path, grace: float, timeout: float) -> int:
    """Hand this node's egress IPs over: everything new leaves by other nodes, and connections are waited for.

    Ends with 0 when nothing uses this node any more, with 1 when the grace is over and connections are left, which it
    names. Ctrl-C ends the waiting only; `undrain` ends the hand-over, and so does a reboot.
    """
    return drain_node(path, grace, timeout, click.echo, partial(click.echo, err=True))


@command.command()
@SOCKET_OPTION
def undrain(path: Path) -> int:
    """Take traffic again."""
    ask(path, "undrain")
    click.echo("takes traffic again")
    return 0


@command.command(name="uninstall")
@SOCKET_OPTION
def uninstall_command(path: Path) -> int:
    """Take everything away that an agent has left in this node's kernel: addresses, tables, rules, routes, the tunnel.

    Pods leave with the node's address from then on. End the agent first, or it puts all back.
    """
    removed = uninstall_node(path)
    for line in removed:
        click.echo(f"removed {line}")
    click.echo("nothing of the agent is left" if removed else "there was nothing of an agent here")
    return 0


@command.command()
@CLUSTER_OPTION
@click.option("--unit", is_flag=True, help="Print the systemd unit that loads it instead.")
@click.pass_context
def guard(ctx: click.Context, cluster: tuple[str, ...], unit: bool) -> int:
    """Print a script for nft that keeps pods' traffic in from the boot until the agent's tables stand.

    Install it on the node as /etc/egress-router/guard.nft, with the unit beside the others of systemd.
    """
    click.echo(guard_unit() if unit else guard_script(_networks(ctx, cluster)), nl=False)
    return 0


@command.command()
@SOCKET_OPTION
@click.option("--unit", is_flag=True, help="Print the systemd unit that loads it at a shutdown instead.")
def leave(path: Path, unit: bool) -> int:
    """Print a script for nft by which this node's egress IPs are left to other nodes, when the node shuts down.

    Nothing answers for them any more, and to agents and controllers the node is down. The agent keeps the script beside
    its socket, so that the unit needs nothing but nft and no agent.
    """
    click.echo(leave_unit(path) if unit else kept_script(path), nl=False)
    return 0
