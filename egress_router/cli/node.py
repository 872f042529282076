"""``egress-router node``: the agent of one node, and questions to it."""

from __future__ import annotations

import json
import socket
import time
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import click

from egress_router.cli.egressip_options import PROBE_PORT_OPTION, STATE_OPTION, health_options
from egress_router.cli.kubernetes_options import (
    KUBERNETES,
    client,
    configuration,
    interface_subnets,
    local_node,
    source_options,
)
from egress_router.daemon.log import LOGGER
from egress_router.egressip.node.agent import Agent
from egress_router.egressip.node.control import ask
from egress_router.egressip.node.drain import GRACE
from egress_router.egressip.node.drain_wait import drain_node
from egress_router.egressip.node.guard import guard_script, guard_unit
from egress_router.egressip.node.process import run_agent
from egress_router.egressip.node.state import NodeSettings
from egress_router.egressip.node.status import status_text
from egress_router.egressip.node.uninstall import uninstall
from egress_router.egressip.process import set_up_log_from_environment
from egress_router.egressip.source.directory import DirectorySource
from egress_router.egressip.source.groups import LocalNode
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.node_writer import NodeReport, NodeWriter
from egress_router.errors import EgressRouterError, TryAgainError, UsageError
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.net.rtnetlink.kernel import Rtnetlink

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
    invoke_without_command=True,
    epilog="""
    \b
    Examples:
      egress-router node --node compute1 --state /var/lib/egress-router/state
      egress-router node --source kubernetes --cluster 10.128.0.0/14,172.30.0.0/16,192.0.2.0/24
      egress-router node guard --cluster 10.128.0.0/14 > /etc/egress-router/guard.nft
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
@click.option("--probe-misses", type=click.IntRange(1, 100), default=3, show_default=True, help="In a row: down.")
@click.option("--probe-returns", type=click.IntRange(1, 100), default=5, show_default=True, help="In a row: up again.")
@PROBE_PORT_OPTION
@click.option(
    "--dad",
    type=click.Choice(["on", "off"]),
    envvar="EGRESS_DAD",
    default="on",
    show_default=True,
    help="Ask whether another machine has an egress IP before it is claimed; off where a router answers for all.",
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
    dad: str,
    health_port: int,
    health_address: str,
    path: Path,
) -> int:
    """Run the agent that gives this node's pods their egress IPs (root, the host's network)."""
    if ctx.invoked_subcommand is not None:
        return 0
    settings = NodeSettings(
        node,
        interface,
        _networks(cluster),
        unknown_pods == "pass",
        probe_interval,
        probe_misses,
        probe_returns,
        probe_port,
        dad == "on",
    )
    set_up_log_from_environment()
    health = (health_port, health_address)
    if origin == KUBERNETES:
        if settings.pass_unknown:
            raise UsageError(
                "--unknown-pods pass: with --source kubernetes an address that no pod has is always dropped"
            )
        me = local_node(node, host_ips, interface)
        return _on_kubernetes(settings, configuration(kubeconfig, api_server), me, path, health)
    return run_agent(settings, DirectorySource(state), path, *health)


def _on_kubernetes(
    settings: NodeSettings, found: ApiConfiguration, me: LocalNode, path: Path, health: tuple[int, str]
) -> int:
    """Run the agent on the Kubernetes API, and write there what it does."""
    source = KubernetesSource(client(found, "node"), me, LOGGER.info)
    writers: list[NodeWriter] = []

    def started(agent: Agent) -> None:
        report = NodeReporter(agent, me, settings.interface)
        writer = NodeWriter(client(found, "node"), source, me.name, report.report, report.drain, LOGGER.info)
        writer.ended = agent.loop.stop
        writer.start()
        writers.append(writer)

    try:
        return run_agent(settings, source, path, *health, started)
    finally:
        for writer in writers:
            writer.stop()
            if writer.fault is not None:
                raise EgressRouterError(f"what is written to the API ended: {writer.fault!r}") from writer.fault


class NodeReporter:
    """What an agent says about itself, in the form that is written to the API."""

    #: The subnets of the interface are read again after so long; seconds.
    SUBNETS_EVERY = 30.0

    def __init__(self, agent: Agent, me: LocalNode, interface: str) -> None:
        self._agent = agent
        self._me = me
        self._interface = interface
        self._subnets: tuple[str, ...] = ()
        self._subnets_at = float("-inf")

    def report(self) -> NodeReport:
        """Return the state of now; called from another thread than the agent's."""
        agent, now = self._agent, time.monotonic()
        if now - self._subnets_at > self.SUBNETS_EVERY:
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
        )

    def drain(self, wanted: bool) -> None:
        """Start or end a drain, as spec.drain of the EgressNode says."""
        self._agent.order_drain(GRACE if wanted else None)


def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    words = [word for text in texts for word in text.replace(",", " ").split()]
    if not words:
        raise UsageError("--cluster: name the networks of pods, services and nodes; traffic to them is left alone")
    try:
        return tuple(ip_network(word) for word in words)
    except ValueError as error:
        raise UsageError(f"--cluster: {error}") from error


@command.command()
@SOCKET_OPTION
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(path: Path, output: str) -> int:
    """Show namespaces, addresses, holders and their health; problems first. Ends with 1 when there is one."""
    answer = ask(path, "status")
    click.echo(json.dumps(answer, indent=2, sort_keys=True) if output == "json" else status_text(answer))
    dropped = any(space["disposition"] == "drop" for space in answer["namespaces"].values())
    return 1 if answer["problems"] or dropped or not answer["ready"] else 0


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
    try:
        ask(path, "status")
    except TryAgainError:
        pass
    else:
        raise TryAgainError(f"an agent answers on {path}; end it first, or it puts back what is removed")
    with Rtnetlink() as kernel:
        removed = uninstall(kernel)
    path.with_suffix(".drain").unlink(missing_ok=True)
    for line in removed:
        click.echo(f"removed {line}")
    click.echo("nothing of the agent is left" if removed else "there was nothing of an agent here")
    return 0


@command.command()
@CLUSTER_OPTION
@click.option("--unit", is_flag=True, help="Print the systemd unit that loads it instead.")
def guard(cluster: tuple[str, ...], unit: bool) -> int:
    """Print a script for nft that keeps pods' traffic in from the boot until the agent's tables stand.

    Install it on the node as /etc/egress-router/guard.nft, with the unit beside the others of systemd.
    """
    click.echo(guard_unit() if unit else guard_script(_networks(cluster)), nl=False)
    return 0
