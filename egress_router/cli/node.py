"""``egress-router node``: the agent of one node, and questions to it."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import click

from egress_router.cli.egressip_options import PROBE_PORT_OPTION, STATE_OPTION, health_options, serve
from egress_router.cli.kubernetes_options import (
    KUBERNETES,
    client,
    configuration,
    interface_subnets,
    local_node,
    source_options,
)
from egress_router.egressip.node.agent import Agent
from egress_router.egressip.node.control import ControlSocket, ask
from egress_router.egressip.node.drain import GRACE
from egress_router.egressip.node.guard import guard_script, guard_unit
from egress_router.egressip.node.metrics import NodeCollector
from egress_router.egressip.node.state import NodeSettings
from egress_router.egressip.node.status import status_text
from egress_router.egressip.node.uninstall import uninstall
from egress_router.egressip.source.directory import ClusterSource, DirectorySource, wait_for_objects
from egress_router.egressip.source.groups import LocalNode
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.node_writer import NodeReport, NodeWriter
from egress_router.errors import EgressRouterError, TryAgainError, UsageError
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.net.rtnetlink.kernel import Rtnetlink

# ``egress-router node drain``: start a hand-over, and tell how it goes on until it is done.

#: Seconds between two questions to the agent, and between two lines about it.
_ASK_EVERY, _SAY_EVERY = 0.1, 5.0


def drain_node(path: Path, grace: float, timeout: float) -> int:
    """Return 0 when nothing uses the node any more, 1 when connections were left at the end of the grace.

    The agent goes on without us. Raises TryAgainError when it does not answer for ``timeout`` seconds, when something
    new still leaves by this node after that time, as it does where there is no other holder, and when somebody ends the
    hand-over.
    """
    answer = ask(path, f"drain {grace:g}")
    for name in answer["drain"]["alone"]:
        click.echo(f"namespace {name} has no other holder, so it goes on leaving through this node", err=True)
    try:
        answer = _handed_over(path, answer, timeout)
        drain = _done(path, answer, timeout)
    except KeyboardInterrupt:
        click.echo("the node goes on handing over; `egress-router node undrain` ends that", err=True)
        raise
    if drain["connections"] is None:
        click.echo("handed over; connections could not be counted, see the agent's log")
        return 1
    if not drain["connections"]:
        click.echo("handed over")
        return 0
    click.echo(f"handed over; {drain['connections']} connections remain, and break when this node stops:")
    listed = 0
    for item in drain["pods"]:
        listed += item["connections"]
        click.echo(f"  {item['connections']} of pod {item['pod']} ({item['ip']})")
    if drain["connections"] > listed:
        click.echo(f"  {drain['connections'] - listed} of other pods")
    return 1


def _handed_over(path: Path, answer: dict[str, Any], timeout: float) -> dict[str, Any]:
    end = time.monotonic() + timeout
    while not answer["handed_over"]:
        if time.monotonic() > end:
            users = ", ".join(answer["users"]) or "other nodes"
            raise TryAgainError(f"still used by {users} after {timeout:g} s; the node goes on handing over")
        answer = _next(path, timeout)
    return answer


def _done(path: Path, answer: dict[str, Any], timeout: float) -> Mapping[str, Any]:
    said = time.monotonic() - _SAY_EVERY
    while not answer["drain"]["done"]:
        drain = answer["drain"]
        if drain["connections"] and time.monotonic() - said >= _SAY_EVERY:
            said = time.monotonic()
            wait = f"waiting at most {drain['seconds_left']:.0f} s more"
            click.echo(f"{drain['connections']} connections still use this node; {wait}", err=True)
        answer = _next(path, timeout)
    found: Mapping[str, Any] = answer["drain"]
    return found


def _next(path: Path, timeout: float) -> dict[str, Any]:
    """Ask again a moment later. An agent that starts again meanwhile goes on where the one before it was."""
    end = time.monotonic() + timeout
    while True:
        time.sleep(_ASK_EVERY)
        try:
            answer = ask(path, "status")
            break
        except TryAgainError:
            if time.monotonic() > end:
                raise
    if not answer["draining"]:
        raise TryAgainError("the hand-over was ended: this node takes traffic again")
    return answer


# ``egress-router node``: the agent of one node, and questions to it.

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
    )
    if origin == KUBERNETES:
        if settings.pass_unknown:
            raise UsageError(
                "--unknown-pods pass: with --source kubernetes an address that no pod has is always dropped"
            )
        return _on_kubernetes(
            settings,
            configuration(kubeconfig, api_server),
            local_node(node, host_ips, interface),
            path,
            (health_port, health_address),
        )
    return _run(settings, DirectorySource(state), path, (health_port, health_address))


def _run(
    settings: NodeSettings,
    source: ClusterSource,
    path: Path,
    health: tuple[int, str],
    started: Callable[[Agent], None] = lambda _agent: None,
) -> int:
    """Run the agent to its end; ``started`` is called before its loop."""
    wait_for_objects(source, _log)
    control = ControlSocket(path)
    try:
        agent = Agent(settings, source, control, _log)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.inbox.stop())
        serve(health[0], health[1] or agent.host_ip, agent, NodeCollector(agent), agent.status)
        started(agent)
        agent.run()
    finally:
        control.close()
        source.close()
    return 0


def _on_kubernetes(
    settings: NodeSettings, found: ApiConfiguration, me: LocalNode, path: Path, health: tuple[int, str]
) -> int:
    """Run the agent on the Kubernetes API, and write there what it does."""
    source = KubernetesSource(client(found, "node"), me, _log)
    writers: list[NodeWriter] = []

    def started(agent: Agent) -> None:
        report = NodeReporter(agent, me, settings.interface)
        writer = NodeWriter(client(found, "node"), source, me.name, report.report, report.drain, _log)
        writer.ended = agent.inbox.stop
        writer.start()
        writers.append(writer)

    try:
        return _run(settings, source, path, health, started)
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
        applied = agent.kernel.applied
        held = frozenset(applied.assigned) if applied is not None else frozenset()
        mine = agent.view.decision.nodes.get(self._me.name)
        pending = {
            ip: ("Pending", "not on the interface yet") for ip in (mine.claims if mine else ()) if ip not in held
        }
        pending |= {ip: ("DuplicateAddress", why) for ip, why in agent.holdings.refused.items()}
        pending |= {ip: ("NotInSubnet", why) for ip, why in agent.holdings.misfits.items()}
        left = agent.hand_over.left
        return NodeReport(
            agent.view.ready and not agent.view.troubles,
            tuple(agent.reasons(now)),
            self._me.host_ips,
            self._subnets,
            held,
            pending,
            agent.hand_over.draining,
            agent.drained(),
            None if left is None else left.total(),
        )

    def drain(self, wanted: bool) -> None:
        """Start or end a hand-over, as spec.drain of the EgressNode says."""

        def change() -> bool:
            if wanted:
                self._agent.drain(GRACE)
            else:
                self._agent.undrain()
            return True

        self._agent.inbox.post(change)


def _log(text: str) -> None:
    print(f"egress-router node: {text}", file=sys.stderr, flush=True)


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
    return drain_node(path, grace, timeout)


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
