"""The lab: nodes, pods, a LAN, a gateway and external services, each a network namespace."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

from egress_router.lab import cni, process, registry
from egress_router.lab.addressing import (
    DNS,
    EXTERNAL,
    FAMILIES,
    FIRST_NODE,
    GATEWAY,
    LAN,
    MAX_NODES,
    MAX_PODS_PER_NODE,
    SERVICES,
    Address,
    numbered,
    parse,
    pod_subnet,
)
from egress_router.lab.agent import Agent
from egress_router.lab.capture import Capture
from egress_router.lab.client import tcp, udp
from egress_router.lab.dns import DnsServer
from egress_router.lab.dump import dump
from egress_router.lab.host import Host
from egress_router.lab.servers import Echo, HttpServer, Ports

QUIET_IPV6 = {"net.ipv6.conf.all.accept_ra": 0, "net.ipv6.conf.default.accept_ra": 0}
NO_DAD = {"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0}
#: A new namespace inherits IPv4 settings from the machine's, so those that matter are set.
PLAIN = {
    "net.ipv4.ip_forward": 0,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.all.disable_ipv6": 0,
    "net.ipv6.conf.default.disable_ipv6": 0,
}
FORWARDING = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}


class Lab:
    """A cluster in network namespaces; a context manager.

    ``nodes`` is 1 to 8. ``shape`` is how pods are connected, one of cni.SHAPES. Everything it makes carries its
    name, which is random, and goes away with ``down``: at the end of the ``with``, at interpreter exit, on SIGTERM
    and on Ctrl-C. Both IP families, always.
    """

    def __init__(self, nodes: int = 1, shape: str = cni.BRIDGE) -> None:
        if not 1 <= nodes <= MAX_NODES:
            raise ValueError(f"nodes={nodes}: 1 to {MAX_NODES}")
        if shape not in cni.SHAPES:
            raise ValueError(f"shape={shape!r}: one of {', '.join(cni.SHAPES)}")
        self.name = registry.new_name()
        self.shape = shape
        self.hosts: list[Host] = []
        self.nodes: list[Host] = []
        self.pods: list[Host] = []
        self._node_count = nodes
        self._closers: list[Echo | HttpServer | DnsServer | Capture] = []
        self._pod_counts = [0] * nodes
        self._dns: DnsServer | None = None
        self._up = False

    # -- up and down

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Build it. What was built is removed again when this fails or is interrupted."""
        if os.geteuid() != 0:
            raise PermissionError("the lab makes network namespaces, which needs root")
        self._up = True
        atexit.register(self.down)
        self._exit_on_sigterm()
        registry.register(self.name)
        try:
            self.agent = Agent()
            self._build()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove everything: servers, processes in the namespaces, namespaces. Harmless when it is down."""
        if not self._up:
            return
        for helper in reversed(self._closers):
            helper.close()
        for host in self.hosts:
            host.end_processes()
        if hasattr(self, "agent"):
            self.agent.close()
        registry.remove(self.name)
        self._up = False
        atexit.unregister(self.down)

    def leave_standing(self) -> None:
        """Let the namespaces outlive this process; ``python -m egress_router.lab down`` removes them."""
        registry.disown(self.name)
        self.agent.close()
        self._up = False
        atexit.unregister(self.down)

    @staticmethod
    def _exit_on_sigterm() -> None:
        # The default action ends the process without any clean-up. A handler that somebody set is left alone.
        def leave(signum: int, _frame: FrameType | None) -> None:
            sys.exit(128 + signum)

        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, leave)

    # -- what it is made of

    def _host(self, name: str, interface: str, addresses: dict[int, Address]) -> Host:
        if any(host.name == name for host in self.hosts):
            raise ValueError(f"there is a host {name!r} already")
        host = Host(self.agent, f"{self.name}-{name}", name, interface, addresses)
        self.hosts.append(host)
        return host

    def _build(self) -> None:
        lan = self._host("lan", "br0", {})
        self.lan = lan
        self.gateway = self._host("gateway", "eth0", {f: numbered(LAN[f], GATEWAY) for f in FAMILIES})
        self.services = self._host("services", "eth0", {f: numbered(EXTERNAL[f], SERVICES[0]) for f in FAMILIES})
        numbers = [FIRST_NODE + index for index in range(self._node_count)]
        for index, number in enumerate(numbers):
            node = self._host(f"node-{index + 1}", "eth0", {f: numbered(LAN[f], number) for f in FAMILIES})
            self.nodes.append(node)
        on_lan = [self.gateway, *self.nodes]
        process.run(["ip", "-batch", "-"], input="".join(f"netns add {host.netns}\n" for host in self.hosts))
        for host in self.hosts:
            routes = FORWARDING if host in on_lan else {}
            self.agent.set_sysctls(host.netns_path, PLAIN | QUIET_IPV6 | NO_DAD | routes)
        self.agent.set_sysctls(lan.netns_path, {"net.ipv6.conf.default.disable_ipv6": 1})
        lan.ip_batch(
            [
                "link add br0 type bridge mcast_snooping 0 forward_delay 0",
                "link set br0 up",
                *(command for host in on_lan for command in self._lan_port(host)),
            ]
        )
        self._build_outside()
        for index, node in enumerate(self.nodes):
            node.ip_batch([*self._lan_side(node), *cni.node_commands(index, self._node_count, self.shape, numbers)])
            node.nft(cni.MASQUERADE)
        for host in on_lan:
            self.agent.wait_ready(host.netns_path, ["eth0"])
        self.agent.wait_ready(self.services.netns_path, ["eth0"])

    def _build_outside(self) -> None:
        """Connect the gateway to the LAN and to the external services behind it."""
        self.gateway.ip_batch(
            [
                *self._lan_side(self.gateway, default_route=False),
                f"link add name eth1 type veth peer name eth0 netns {self.services.netns}",
                "link set eth1 up",
                *(f"addr add {numbered(EXTERNAL[f], 1)}/{EXTERNAL[f].prefixlen} dev eth1" for f in FAMILIES),
            ]
        )
        self.services.ip_batch(["link set lo up", "link set eth0 up"])
        self.services.add_addresses(self.service_addresses)
        self.services.ip_batch(f"route add default via {numbered(EXTERNAL[f], 1)}" for f in FAMILIES)

    @staticmethod
    def _lan_port(host: Host) -> list[str]:
        return [
            f"link add name {host.name} type veth peer name eth0 netns {host.netns}",
            f"link set {host.name} master br0",
            f"link set {host.name} up",
        ]

    @staticmethod
    def _lan_side(host: Host, default_route: bool = True) -> list[str]:
        return [
            "link set lo up",
            "link set eth0 up",
            *(f"addr add {host.addresses[f]}/{LAN[f].prefixlen} dev eth0" for f in host.addresses),
            *(f"route add default via {numbered(LAN[f], GATEWAY)}" for f in host.addresses if default_route),
        ]

    def machine(self, name: str, *addresses: str) -> Host:
        """Add a machine to the LAN. Given an IPv4 address alone, it gets the IPv6 address that looks like it."""
        own: dict[int, Address] = {address.version: address for address in map(parse, addresses)}
        if 6 not in own:
            own[6] = numbered(LAN[6], int(str(own[4]).rpartition(".")[2]))
        host = self._host(name, "eth0", own)
        process.run(["ip", "netns", "add", host.netns])
        self.agent.set_sysctls(host.netns_path, PLAIN | QUIET_IPV6 | NO_DAD)
        self.lan.ip_batch(self._lan_port(host))
        host.ip_batch(self._lan_side(host))
        self.agent.wait_ready(host.netns_path, ["eth0"])
        return host

    def pod(self, name: str, node: int = 0) -> Host:
        """Add a pod to a node (0-based). Its resolv.conf names the lab's DNS server."""
        self._pod_counts[node] += 1
        number = self._pod_counts[node]
        if number > MAX_PODS_PER_NODE:
            raise ValueError(f"a node has room for {MAX_PODS_PER_NODE} pods")
        addresses = {family: pod_subnet(node, family)[1 + number] for family in FAMILIES}
        pod = self._host(name, "eth0", addresses)
        pod.node = self.nodes[node]
        process.run(["ip", "netns", "add", pod.netns])
        # Addresses that the lab sets are marked nodad; detection stays on for those that others add.
        self.agent.set_sysctls(pod.netns_path, PLAIN | QUIET_IPV6)
        link = f"veth{number}"
        commands = list(cni.node_side(pod, link, self.shape))
        created, rest = commands[0], commands[1:]
        pod.node.ip(created)
        self.agent.set_sysctls(pod.netns_path, {"net.ipv6.conf.eth0.accept_dad": 0})
        self.agent.set_sysctls(pod.node.netns_path, cni.node_sysctls(link, self.shape))
        pod.node.ip_batch(rest)
        pod.ip_batch(cni.pod_side(addresses, node, pod.interface, self.shape))
        pod.set_resolv_conf(f"nameserver {numbered(LAN[4], DNS)}\noptions timeout:1 attempts:2\n")
        self.agent.wait_ready(pod.netns_path, ["eth0"])
        self.agent.wait_ready(pod.node.netns_path, [link])
        self.pods.append(pod)
        return pod

    def macvlan(self, pod: Host, name: str = "macvlan0", mode: str = "private") -> str:
        """Give a pod a macvlan on its node's NIC, down and without address, as OpenShift SDN's annotation does.

        Returns its hardware address.
        """
        assert pod.node is not None, f"{pod.name} is not a pod"
        pod.node.ip(f"link add link eth0 name {name} netns {pod.netns} type macvlan mode {mode}")
        return pod.mac(name)

    def unplug(self, host: Host) -> None:
        """Cut a machine or node off the LAN, as a power cut does; its own processes go on."""
        self.lan.ip(f"link set {host.name} down")

    def plug(self, host: Host) -> None:
        """Connect a machine or node again."""
        self.lan.ip(f"link set {host.name} up")
        self.agent.wait_ready(host.netns_path, ["eth0"])

    # -- servers, clients, observers

    @property
    def service_addresses(self) -> list[Address]:
        """The external addresses that exist from the start, of both families."""
        return [numbered(EXTERNAL[family], number) for family in FAMILIES for number in SERVICES]

    def echo(
        self,
        address: Address | str,
        tcp: Ports = (),
        udp: Ports = (),
        host: Host | None = None,
        stay: bool = False,
    ) -> Echo:
        """Start a server that answers with who it saw: ``PEER_IP PEER_PORT LOCAL_IP LOCAL_PORT PAYLOAD``.

        On an external service unless ``host`` says where; the address is added when it is missing there. With
        ``stay`` it outlives this process, for labs that are left standing.
        """
        where = self._holds(host, address)
        server = Echo(where, parse(address), tcp, udp, stay)
        self._closers.append(server)
        return server

    def http(self, address: Address | str, port: int = 80, host: Host | None = None) -> HttpServer:
        """Start an HTTP/1.1 server (see HttpServer) on an external service, or on ``host``."""
        server = HttpServer(self._holds(host, address), parse(address), port)
        self._closers.append(server)
        return server

    def _holds(self, host: Host | None, address: Address | str) -> Host:
        """Return the host that serves an address; the external services take on any that they lack."""
        if host is None:
            self.services.add_addresses([address])
        return host or self.services

    @property
    def dns(self) -> DnsServer:
        """The DNS server on the LAN (192.0.2.53, 2001:db8:2::53), started on first use."""
        if self._dns is None:
            host = self.machine("dns", str(numbered(LAN[4], DNS)))
            self._dns = DnsServer(host, list(host.addresses.values()))
            self._closers.append(self._dns)
        return self._dns

    def capture(self, host: Host | None = None, interface: str = "eth0") -> Capture:
        """Capture what crosses the gateway's LAN side, or another interface. A context manager."""
        capture = Capture(host or self.gateway, interface)
        self._closers.append(capture)
        return capture

    def tcp(self, client: Host, address: Address | str, port: int, payload: str = "hello", timeout: float = 3.0) -> str:
        """Connect, send, and return what came back; raises client.NoReply with the reason."""
        return tcp(client, parse(address), port, payload, timeout)

    def udp(self, client: Host, address: Address | str, port: int, payload: str = "hello", timeout: float = 3.0) -> str:
        """Send one datagram and return the answer; raises client.NoReply with the reason."""
        return udp(client, parse(address), port, payload, timeout)

    def dump(self, *hosts: Host) -> str:
        """Return addresses, rules, routes, translations and connections of hosts (all, if none) as text."""
        return "\n".join(dump(host) for host in hosts or self.hosts)
