"""The machines, pods and wires of a lab."""

from __future__ import annotations

from lab import cni, process
from lab.addressing import (
    DNS,
    EXTERNAL,
    FAMILIES,
    FIRST_NODE,
    GATEWAY,
    LAN,
    MAX_PODS_PER_NODE,
    SERVICES,
    Address,
    numbered,
    parse,
    pod_subnet,
)
from lab.host import Host
from lab.worker import Worker

#: A new namespace inherits IPv4 settings from the machine's, so those that matter are set.
PLAIN = {
    "net.ipv4.ip_forward": 0,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.all.disable_ipv6": 0,
    "net.ipv6.conf.default.disable_ipv6": 0,
    "net.ipv6.conf.all.accept_ra": 0,
    "net.ipv6.conf.default.accept_ra": 0,
}
NO_DAD = {"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0}
FORWARDING = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}


class Topology:
    """Nodes on a LAN, pods on nodes, a gateway, and external services behind it. Each is a network namespace.

    Devices are born inside the namespaces, so nothing ever appears in the machine's own.
    """

    def __init__(self, name: str, nodes: int, shape: str) -> None:
        self.name = name
        self.shape = shape
        self.hosts: list[Host] = []
        self.nodes: list[Host] = []
        self.pods: list[Host] = []
        self.worker: Worker
        self._pod_counts = [0] * nodes

    @property
    def service_addresses(self) -> list[Address]:
        """The external addresses that exist from the start, of both families."""
        return [numbered(EXTERNAL[family], number) for family in FAMILIES for number in SERVICES]

    def _host(self, name: str, interface: str, addresses: dict[int, Address]) -> Host:
        if any(host.name == name for host in self.hosts):
            raise ValueError(f"there is a host {name!r} already")
        host = Host(self.worker, f"{self.name}-{name}", name, interface, addresses)
        self.hosts.append(host)
        return host

    def _build(self) -> None:
        self.lan = self._host("lan", "br0", {})
        self.gateway = self._host("gateway", "eth0", {f: numbered(LAN[f], GATEWAY) for f in FAMILIES})
        self.services = self._host("services", "eth0", {f: numbered(EXTERNAL[f], SERVICES[0]) for f in FAMILIES})
        numbers = [FIRST_NODE + index for index in range(len(self._pod_counts))]
        for index, number in enumerate(numbers, start=1):
            self.nodes.append(self._host(f"node-{index}", "eth0", {f: numbered(LAN[f], number) for f in FAMILIES}))
        on_lan = [self.gateway, *self.nodes]
        process.run(["ip", "-batch", "-"], input="".join(f"netns add {host.netns}\n" for host in self.hosts))
        for host in self.hosts:
            routes = FORWARDING if host in on_lan else {}
            self.worker.set_sysctls(host.netns_path, PLAIN | NO_DAD | routes)
        self.worker.set_sysctls(self.lan.netns_path, {"net.ipv6.conf.default.disable_ipv6": 1})
        self.lan.ip_batch(
            [
                "link add br0 type bridge mcast_snooping 0 forward_delay 0",
                "link set br0 up",
                *(command for host in on_lan for command in lan_port(host)),
            ]
        )
        self._build_outside()
        for index, node in enumerate(self.nodes):
            node.ip_batch([*lan_side(node), *cni.node_commands(index, len(self.nodes), self.shape, numbers)])
            node.nft(cni.MASQUERADE)
        for host in on_lan:
            self._wait_for_lan(host)

    def _build_outside(self) -> None:
        """Connect the gateway to the LAN and to the external services behind it."""
        self.gateway.ip_batch(
            [
                *lan_side(self.gateway, default_route=False),
                f"link add name eth1 type veth peer name eth0 netns {self.services.netns}",
                "link set eth1 up",
                *(f"addr add {numbered(EXTERNAL[f], 1)}/{EXTERNAL[f].prefixlen} dev eth1" for f in FAMILIES),
            ]
        )
        self.services.ip_batch(["link set lo up", "link set eth0 up"])
        self.services.add_addresses(self.service_addresses)
        # With several addresses, IPv6 would use the latest as the source.
        self.services.ip_batch(
            f"route add default via {numbered(EXTERNAL[f], 1)} src {self.services.addresses[f]}" for f in FAMILIES
        )
        self.worker.wait_ready(self.services.netns_path, ["eth0"])
        self.worker.wait_ready(self.gateway.netns_path, ["eth1"])

    def _wait_for_lan(self, host: Host) -> None:
        """Wait until both ends of a LAN cable work: a bridge forwards to a port only once it has its carrier."""
        self.worker.wait_ready(host.netns_path, ["eth0"])
        self.worker.wait_ready(self.lan.netns_path, [host.name])

    def machine(self, name: str, *addresses: str) -> Host:
        """Add a machine to the LAN, with a default route through the gateway.

        Given an IPv4 address alone, it also gets the IPv6 address that looks like it (192.0.2.99: 2001:db8:2::99).
        """
        own: dict[int, Address] = {address.version: address for address in map(parse, addresses)}
        if 6 not in own:
            own[6] = numbered(LAN[6], int(str(own[4]).rpartition(".")[2]))
        host = self._host(name, "eth0", own)
        process.run(["ip", "netns", "add", host.netns])
        self.worker.set_sysctls(host.netns_path, PLAIN | NO_DAD)
        self.lan.ip_batch(lan_port(host))
        host.ip_batch(lan_side(host))
        self._wait_for_lan(host)
        return host

    def pod(self, name: str, node: int = 0) -> Host:
        """Add a pod to a node (0-based). Its resolv.conf names the lab's DNS server."""
        number = self._pod_counts[node] + 1
        if number > MAX_PODS_PER_NODE:
            raise ValueError(f"a node has room for {MAX_PODS_PER_NODE} pods")
        self._pod_counts[node] = number
        pod = self._host(name, "eth0", {f: pod_subnet(node, f)[1 + number] for f in FAMILIES})
        pod.node = self.nodes[node]
        link = f"veth{number}"
        process.run(["ip", "netns", "add", pod.netns])
        self.worker.set_sysctls(pod.netns_path, PLAIN)
        pod.node.ip(cni.create_link(pod, link))
        # Detection stays on for the addresses of other interfaces, such as a macvlan's.
        self.worker.set_sysctls(pod.netns_path, {"net.ipv6.conf.eth0.accept_dad": 0})
        self.worker.set_sysctls(pod.node.netns_path, cni.node_sysctls(link, self.shape))
        pod.node.ip_batch(cni.node_side(pod, link, self.shape))
        pod.ip_batch(cni.pod_side(pod, node, self.shape))
        pod.set_resolv_conf(f"nameserver {numbered(LAN[4], DNS)}\noptions timeout:1 attempts:2\n")
        self.worker.wait_ready(pod.netns_path, ["eth0"])
        self.worker.wait_ready(pod.node.netns_path, [link, *cni.node_devices(self.shape)])
        self.pods.append(pod)
        return pod

    def macvlan(self, pod: Host, name: str = "macvlan0", mode: str = "private") -> str:
        """Give a pod a macvlan on its node's NIC, down and without address, as OpenShift SDN's annotation does.

        Returns its hardware address.
        """
        if pod.node is None:
            raise ValueError(f"{pod.name} is not a pod")
        pod.node.ip(f"link add link eth0 name {name} netns {pod.netns} type macvlan mode {mode}")
        return pod.mac(name)

    def unplug(self, host: Host) -> None:
        """Cut a machine or node off the LAN, as a power cut does; its own processes go on."""
        self.lan.ip(f"link set {host.name} down")

    def plug(self, host: Host) -> None:
        """Connect a machine or node again; it works when this returns."""
        self.lan.ip(f"link set {host.name} up")
        self._wait_for_lan(host)


def lan_port(host: Host) -> list[str]:
    """Return the LAN's commands for the cable to a host; the port is called like the host."""
    return [
        f"link add name {host.name} type veth peer name eth0 netns {host.netns}",
        f"link set {host.name} master br0",
        f"link set {host.name} up",
    ]


def lan_side(host: Host, default_route: bool = True) -> list[str]:
    """Return a host's own commands for its end of that cable."""
    return [
        "link set lo up",
        "link set eth0 up",
        *(f"addr add {host.addresses[f]}/{LAN[f].prefixlen} dev eth0" for f in host.addresses),
        *(f"route add default via {numbered(LAN[f], GATEWAY)}" for f in host.addresses if default_route),
    ]
