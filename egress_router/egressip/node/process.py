"""The agent as a process: everything that it needs is made here, and nothing is decided."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

from egress_router.daemon.log import LOGGER
from egress_router.daemon.loop import Loop
from egress_router.daemon.threads import Threads
from egress_router.egressip.node.agent import Agent
from egress_router.egressip.node.claims import Claimer
from egress_router.egressip.node.control import ControlSocket
from egress_router.egressip.node.dataplane import NodeDataplane, require_all
from egress_router.egressip.node.encryption import KEY_SUFFIX, Encryption
from egress_router.egressip.node.foreign_marks import check_marks
from egress_router.egressip.node.forward_policy import LEGACY_TABLE
from egress_router.egressip.node.interface import local_node
from egress_router.egressip.node.legacy_tables import LegacyTable, legacy_tables
from egress_router.egressip.node.legs import MISSES as LEG_MISSES
from egress_router.egressip.node.metrics import NodeCollector
from egress_router.egressip.node.repair import Heard
from egress_router.egressip.node.replication import Replication
from egress_router.egressip.node.report import NodeReporter
from egress_router.egressip.node.state import ENCRYPTED, NodeSettings
from egress_router.egressip.node.tables import alive_before, dropped_packets, loaders, present, table_watch, used_before
from egress_router.egressip.process import api_client, running, serve, wait_for_objects
from egress_router.egressip.source.directory import ClusterSource, DirectorySource
from egress_router.egressip.source.kubernetes import KubernetesSource
from egress_router.egressip.source.node_writer import NodeWriter
from egress_router.errors import PlatformError, quoted
from egress_router.kubernetes.configuration import ApiConfiguration
from egress_router.kubernetes.nri import Plugin
from egress_router.net.icmp_probe import Prober
from egress_router.net.process import limit_tools
from egress_router.net.rtnetlink.kernel import RouteNetlink, Rtnetlink
from egress_router.net.rtnetlink.values import Link
from egress_router.net.signed_messages import Signatures

#: A tool that hangs (nft while somebody holds the kernel's tables) may keep the loop so long: less than what /healthz
#: takes for stuck, and many times what the largest tables take.
TOOL_SECONDS = 20.0


def run_on_directory(
    settings: NodeSettings,
    state: Path,
    socket: Path,
    health_port: int,
    health_address: str,
    hosts: Collection[str] = (),
) -> int:
    """Be the agent of a node, with the objects in a directory, until SIGTERM or SIGINT; return 0. ``hosts``: see
    Endpoint. Raises EgressRouterError.
    """
    with running() as (loop, threads):
        run_agent(settings, DirectorySource(state), loop, threads, socket, health_port, health_address, hosts=hosts)
    return 0


def run_on_kubernetes(
    settings: NodeSettings,
    api: ApiConfiguration,
    host_ips: Iterable[str],
    socket: Path,
    health_port: int,
    health_address: str,
    nri: Path | None = None,
    *,
    nri_required: bool = False,
    hosts: Collection[str] = (),
) -> int:
    """Be the agent of a node, with the objects of the Kubernetes API, and write there what it does. ``host_ips``: the
    node's addresses where they are not those of the interface. ``nri``: where the container runtime tells of pods,
    ``nri_required``: that it does not is a problem. Returns and raises as ``run_on_directory``.
    """
    me = local_node(settings.node, host_ips, settings.interface)
    with running() as (loop, threads), ExitStack() as stack:
        source = KubernetesSource(api_client(api, "node"), threads.start, me, LOGGER.info)
        plugin = None
        if nri is not None and source.runtime is not None:
            plugin = Plugin(nri, source.runtime, LOGGER.info, required=nri_required)
            stack.callback(plugin.stop)
            plugin.start(threads.start)

        def started(agent: Agent) -> None:
            agent.plugin = plugin
            report = NodeReporter(agent, me, settings.interface)
            writer = NodeWriter(api_client(api, "node"), source, me.name, report.report, report.drain, LOGGER.info)
            stack.callback(writer.loop.stop)
            writer.loop.start(threads.start)

        run_agent(settings, source, loop, threads, socket, health_port, health_address, started, hosts)
    return 0


def run_agent(
    settings: NodeSettings,
    source: ClusterSource,
    loop: Loop,
    threads: Threads,
    socket: Path,
    health_port: int,
    health_address: str,
    started: Callable[[Agent], None] = lambda _: None,
    hosts: Collection[str] = (),
) -> None:
    """Be the agent until the loop is stopped. ``started`` is called before. Closes the source. Raises
    EgressRouterError.
    """
    limit_tools(TOOL_SECONDS)
    try:
        if wait_for_objects(source, loop):
            source.follow(threads)
            control = ControlSocket(socket)
            try:
                agent = build_agent(settings, source, control, loop, threads)
                address = health_address or agent.host_ip
                serve(health_port, address, agent, NodeCollector(agent), agent.status, threads, hosts=hosts)
                started(agent)
                agent.run()
            finally:
                control.close()
    finally:
        source.close()


def build_agent(
    settings: NodeSettings, source: ClusterSource, control: ControlSocket, loop: Loop, threads: Threads
) -> Agent:
    """Return the agent of this machine's kernel and network. Raises PlatformError when the node's object does not fit
    the machine, CapabilityError when the process may not change it.
    """
    require_all()
    host_ip = _host_ip(settings.node, source)
    link = _outside_link(settings.interface)
    with Rtnetlink() as kernel:
        for line in check_marks(settings.marks, kernel):
            LOGGER.info("%s", line)
        encryption = _encryption(settings, host_ip, link, control.path.with_suffix(KEY_SUFFIX), kernel)
    dataplane = KernelDataplane(settings, host_ip, link, LOGGER.warning, encryption)
    agent = Agent(settings, host_ip, source, control, loop, threads, dataplane)
    agent.connect(
        Prober(
            host_ip,
            settings.probe_port,
            settings.probe_interval,
            agent.on_answers,
            agent.payload,
            agent.signatures,
            encryption.public_key if encryption is not None else "",
            agent.on_key,
            heard_pods=agent.on_pods_told,
            translated=agent.on_translated,
            figures=agent.figures.part,
            replied=agent.on_replied,
            # Where pings come back and nothing does by the tunnel, the first misses say nothing yet.
            misses=settings.probe_misses + LEG_MISSES - 1,
        ),
        Claimer(link, agent.on_duplicate_check, threads.task, dad=settings.dad),
        Replication(
            host_ip,
            settings.probe_port,
            None if settings.keys is None else Signatures(settings.keys, LOGGER.warning),
            LOGGER.warning,
        ),
    )
    return agent


class KernelDataplane(NodeDataplane):
    """The kernel of this machine, with its tables watched."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._notices = table_watch()
        self._others = False
        self._legacy: list[LegacyTable] = []

    def fileno(self) -> int:
        """Return a descriptor that is readable when nftables have changed."""
        return self._notices.fileno()

    def tampered(self) -> bool:
        """Return whether somebody else has changed our tables, or may have while nobody listened."""
        heard = self._notices.heard(loaders)
        self._others |= heard.others or heard.lost
        return heard.tampered or (heard.lost and not self.present())

    def others_changed(self) -> bool:
        """Return whether other programs have changed their rules since this was asked last."""
        changed, self._others = self._others, False
        return changed

    def unheard_changed(self) -> bool:
        """Return whether tables of iptables-legacy, of whose changes nobody tells, have changed since this was asked
        last.
        """
        before, self._legacy = self._legacy, legacy_tables(LEGACY_TABLE)[0]
        return before != self._legacy

    def network_fileno(self) -> int:
        """Return a descriptor that is readable when rules, routes, tunnel or addresses have changed."""
        return self.network.fileno()

    def network_heard(self) -> Heard:
        """Return what somebody else has changed of them."""
        return self.network.heard(self.netlink.port)

    def addresses_on_link(self) -> set[str]:
        """Return the addresses on the outside interface."""
        return {str(item.address.ip) for item in self.netlink.addresses(self._link)}

    def present(self) -> bool:
        """Return whether our tables are as they were applied, or before that are there, and the guard of the boot is
        not.
        """
        return present() if self.applied is None else not self.tables_differ()

    def gateways_before(self) -> tuple[Collection[int], Collection[int]]:
        """Return the slots of the gateways that were in use, and of those whose connections were to go on."""
        return used_before(), alive_before()

    def dropped_packets(self) -> dict[str, int]:
        """Return the packets dropped so far, by reason."""
        return dropped_packets()


def _encryption(
    settings: NodeSettings, host_ip: str, link: Link, key_file: Path, kernel: RouteNetlink
) -> Encryption | None:
    """Return the encryption of the tunnel, with its device in place, where it is asked for; else take the device away.
    Raises PlatformError where the kernel has none.
    """
    if settings.encrypted:
        encryption = Encryption(host_ip, link, settings.wireguard_port, key_file, LOGGER.warning)
        for line in encryption.ensure(kernel):
            LOGGER.info("%s", line)
        return encryption
    former = kernel.link(ENCRYPTED)
    if former is not None:
        kernel.remove_link(former)
    return None


def _host_ip(node: str, source: ClusterSource) -> str:
    state, _ = source.read()
    host = state.nodes.get(node)
    if host is None:
        raise PlatformError(f"there is no HostSubnet {node}; --node must name this node's object")
    try:
        return str(ip_address(host.host_ip))
    except ValueError:
        raise PlatformError(f"HostSubnet {node}: hostIP {quoted(host.host_ip)} is not an address") from None


def _outside_link(interface: str) -> Link:
    with Rtnetlink() as kernel:
        link = kernel.link(interface)
    if link is None:
        raise PlatformError(f"there is no interface {interface}; --interface names the outside one")
    return link
