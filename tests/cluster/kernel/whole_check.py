"""All that works in a cluster, and still has to with egress IPs: a table of probes, each with the answers it may have.

Who asks: a pod with egress IPs and one without on each node, the nodes themselves, and a machine outside. Whom: servers
outside, pods with and without egress IPs on each node, services, node ports, DNS, the API server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from lab import client
from lab.addressing import Address, parse
from lab.capture import Capture
from lab.host import Host
from lab.kubernetes.cluster import Cluster
from lab.kubernetes.outside import PodHost
from lab.kubernetes.plan import DNS_SERVICE, Plan
from lab.servers import Echo
from tests.support.products import client_pod

#: Whom pods with egress IPs ask outside, whom those without, and whom a NetworkPolicy forbids.
WITH = {4: "203.0.113.25", 6: "2001:db8:113::25"}
WITHOUT = {4: "203.0.113.26", 6: "2001:db8:113::26"}
DENIED = {4: "203.0.113.27", 6: "2001:db8:113::27"}
PORT, NODE_PORTS = 8080, {"with": 30081, "without": 30080}
NAME, NAMED = "named.example.com", "203.0.113.77"
#: What is not answered is given up after this, and counted as lost; seconds. The network of a lab has no losses.
TIMEOUT = 3.0
ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class Probe:
    """``run`` returns what happened in one word: the source that a server saw, or why there was no answer."""

    name: str
    run: Callable[[], str]
    expected: frozenset[str]

    def failure(self) -> str:
        """Run it; return what is wrong, empty when nothing is."""
        try:
            found = self.run()
        except client.NoReply as error:
            found = error.reason
        return "" if found in self.expected else f"{self.name}: {found}, not {' or '.join(sorted(self.expected))}"


def ping(host: Host, target: str) -> str:
    """Return whether one echo comes back."""
    done = host.run(["ping", "-n", "-c", "1", "-W", "1", target], check=False)
    return ANSWERED if done.returncode == 0 else "timeout"


def tcp(host: Host, target: str, port: int) -> str:
    """Return the source that an echo server saw."""
    return client.tcp(host, parse(target), port, "x", TIMEOUT).split()[0]


def udp(host: Host, target: str, port: int) -> str:
    """Return the source that an echo server saw."""
    return client.udp(host, parse(target), port, "x", TIMEOUT).split()[0]


def any_source(ask: Callable[[Host, str, int], str], host: Host, target: str, port: int) -> str:
    """Return only that there was an answer."""
    ask(host, target, port)
    return ANSWERED


def connects(host: Host, target: str, port: int) -> str:
    """Return whether a connection is taken, whatever is spoken on it."""
    client.connect(host, parse(target), port, TIMEOUT).close()
    return ANSWERED


def resolves(host: Host, name: str, address: str) -> str:
    """Return whether the cluster's DNS knows the address of a name."""
    words = ["busybox", "nslookup", "-type=a", name, DNS_SERVICE]
    return ANSWERED if address in host.run(words, check=False).stdout else "no such address"


class WholeCheck:
    """The pods and servers of a cluster, and the probes. ``pods`` are by namespace and node."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        shape: Plan = cluster.shape
        self.nodes = shape.node_names
        # kube-router has IPv4 alone in this lab.
        self.families = (4, 6) if shape.cni == "bridge" else (4,)
        self.spaces = {"with": "shop", "without": "plain"}
        for space in self.spaces.values():
            cluster.kubectl("create", "namespace", space)
        cluster.kubectl("label", "namespace", "shop", "env=shop")
        for kind, space in self.spaces.items():
            pods = [client_pod(f"pod-{node}", node, space) for node in self.nodes]
            for one in pods:
                one["metadata"]["labels"] = {"app": kind}
            cluster.apply([*pods, _service(kind, space)])
        for space in self.spaces.values():
            cluster.kubectl("-n", space, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
        self.pods = {
            (kind, node): cluster.pod(f"pod-{node}", self.spaces[kind]) for kind in self.spaces for node in self.nodes
        }
        self._servers: list[Echo] = []
        for targets in (WITH, WITHOUT, DENIED):
            for version in self.families:
                cluster.echo(targets[version], tcp=[80], udp=[80])
        for host in self.pods.values():
            for version in self.families:
                self._servers.append(Echo(host, host.addresses[version], PORT, PORT))
        cluster.dns.set(NAME, A=[NAMED])
        self.services = {kind: self._cluster_ips(kind) for kind in self.spaces}

    def close(self) -> None:
        """End the servers in the pods."""
        for server in self._servers:
            server.close()

    def _cluster_ips(self, kind: str) -> dict[int, str]:
        found = json.loads(self.cluster.kubectl("-n", self.spaces[kind], "get", "service", kind, "-o", "json"))
        return {6 if ":" in ip else 4: ip for ip in found["spec"]["clusterIPs"]}

    def node_address(self, node: str, version: int) -> str:
        """Return the address of a node."""
        return str(self.cluster.host(node).addresses[version])

    def probes(self, egress: dict[int, str]) -> Iterator[Probe]:
        """Yield the table; ``egress`` is the egress IP of each family, of a family without one pods leave with the
        addresses of their nodes.
        """
        for version in self.families:
            yield from self._outside(version, egress)
            yield from self._between_pods(version)
            yield from self._services(version)
            yield from self._node_ports(version)
        yield from self._names_and_api()

    def _outside(self, version: int, egress: dict[int, str]) -> Iterator[Probe]:
        for (kind, node), host in self.pods.items():
            own = self.node_address(node, version)
            source = egress.get(version, own) if kind == "with" else own
            target = (WITH if kind == "with" else WITHOUT)[version]
            name = f"{kind} egress IP, pod on {node} to outside {target}"
            yield Probe(f"{name}, TCP", partial(tcp, host, target, 80), frozenset({source}))
            yield Probe(f"{name}, UDP", partial(udp, host, target, 80), frozenset({source}))
            yield Probe(f"{name}, ping", partial(ping, host, target), frozenset({ANSWERED}))
        for node in self.nodes:
            target, itself = WITHOUT[version], partial(tcp, self.cluster.host(node), WITHOUT[version], 80)
            expected = frozenset({self.node_address(node, version)})
            yield Probe(f"{node} itself to outside {target}, TCP", itself, expected)
        for ip in filter(None, [egress.get(version)]):
            refused = frozenset({"refused"})
            yield Probe(f"outside to egress IP {ip}", partial(connects, self.cluster.outside, ip, 80), refused)

    def _between_pods(self, version: int) -> Iterator[Probe]:
        for (kind, node), host in self.pods.items():
            own = frozenset({str(host.addresses[version])})
            for (to_kind, to_node), other in self.pods.items():
                target = str(other.addresses[version])
                name = f"pod {kind} on {node} to pod {to_kind} on {to_node}, IPv{version}"
                yield Probe(f"{name}, TCP", partial(tcp, host, target, PORT), own)
                yield Probe(f"{name}, UDP", partial(udp, host, target, PORT), own)
                yield Probe(f"{name}, ping", partial(ping, host, target), frozenset({ANSWERED}))
        for node in self.nodes:
            for (to_kind, to_node), other in self.pods.items():
                machine, target = self.cluster.host(node), str(other.addresses[version])
                name = f"{node} to pod {to_kind} on {to_node}, IPv{version}"
                for protocol, ask in (("TCP", tcp), ("UDP", udp)):
                    yield Probe(f"{name}, {protocol}", partial(any_source, ask, machine, target, PORT), _ANSWERS)
                yield Probe(f"{name}, ping", partial(ping, machine, target), _ANSWERS)

    def _services(self, version: int) -> Iterator[Probe]:
        askers: list[tuple[str, Host]] = [(f"pod {kind} on {node}", host) for (kind, node), host in self.pods.items()]
        askers += [(node, self.cluster.host(node)) for node in self.nodes]
        for name, host in askers:
            for kind, addresses in self.services.items():
                # Each of the three endpoints is met by one of them, or nearly always.
                for number in range(4):
                    for protocol, ask in (("TCP", tcp), ("UDP", udp)):
                        run = partial(any_source, ask, host, addresses[version], 80)
                        text = f"{name} to service {kind}, IPv{version}, {protocol}, time {number + 1}"
                        yield Probe(text, run, _ANSWERS)

    def _node_ports(self, version: int) -> Iterator[Probe]:
        askers: list[tuple[str, Host]] = [("outside", self.cluster.outside)]
        askers += [(f"pod {kind} on {node}", host) for (kind, node), host in self.pods.items()]
        askers += [(node, self.cluster.host(node)) for node in self.nodes]
        for name, host in askers:
            for node in self.nodes:
                for kind, port in NODE_PORTS.items():
                    for number in range(2):
                        run = partial(any_source, tcp, host, self.node_address(node, version), port)
                        text = f"{name} to port {port} of {node} ({kind}), IPv{version}, time {number + 1}"
                        yield Probe(text, run, _ANSWERS)

    def _names_and_api(self) -> Iterator[Probe]:
        for (kind, node), host in self.pods.items():
            name = f"pod {kind} on {node}"
            service = self.services["without"][4]
            of_service = partial(resolves, host, "without.plain.svc.cluster.local", service)
            yield Probe(f"{name}: name of a service", of_service, _ANSWERS)
            yield Probe(f"{name}: name outside", partial(resolves, host, NAME, NAMED), _ANSWERS)
            yield Probe(f"{name} to the API's service", partial(connects, host, "172.30.0.1", 443), _ANSWERS)
            yield Probe(f"{name} to the API server", partial(connects, host, "192.0.2.10", 6443), _ANSWERS)

    def failures(self, egress: dict[int, str]) -> tuple[int, list[str]]:
        """Run all probes; return how many there are, and what is wrong: of packets that left with a wrong source, too,
        also where a probe has not seen it.
        """
        with self.cluster.capture() as seen:
            found = [probe.failure() for probe in self.probes(egress)]
            wrong = [text for version, ip in egress.items() for text in _wrong_sources(seen, parse(ip), version)]
        return len(found), [*filter(None, found), *wrong]

    def restricted(self, number: str) -> PodHost:
        """Return a pod with egress IPs that policies may select by ``role: restricted``."""
        return self.cluster.pod(f"restricted-{number}", "shop")


_ANSWERS = frozenset({ANSWERED})


def _wrong_sources(seen: Capture, ip: Address, version: int) -> Iterator[str]:
    to = parse(WITH[version])
    for packet in seen.received():
        if packet.dst == to and packet.src != ip:
            yield f"left with another source than {ip}: {packet}"


def _service(kind: str, space: str) -> dict[str, object]:
    ports = [
        {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": PORT, "nodePort": NODE_PORTS[kind]},
        {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": PORT},
    ]
    spec = {"type": "NodePort", "selector": {"app": kind}, "ipFamilyPolicy": "PreferDualStack", "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": kind, "namespace": space}, "spec": spec}
