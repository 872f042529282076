"""The lab itself: a topology with a beginning and an end, servers, clients and captures."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from lab import client, cni, lifetime, registry
from lab.addressing import DNS, LAN, MAX_NODES, Address, numbered, parse
from lab.capture import Capture
from lab.dns import DnsServer
from lab.dump import dump
from lab.host import Host
from lab.servers import Echo, HttpServer, Ports
from lab.topology import Topology
from lab.worker import Worker


class Lab(Topology):
    """A cluster in network namespaces; a context manager.

    ``nodes`` is 1 to 8. ``shape`` is how pods are connected, one of cni.SHAPES. Everything it makes carries its
    name, which is random, and goes away with ``down``: at the end of the ``with``, at interpreter exit, on SIGTERM
    and on Ctrl-C. Both IP families, always. One lab is used by one thread; several labs may stand side by side.
    """

    def __init__(self, nodes: int = 1, shape: str = cni.BRIDGE) -> None:
        if not 1 <= nodes <= MAX_NODES:
            raise ValueError(f"nodes={nodes}: 1 to {MAX_NODES}")
        if shape not in cni.SHAPES:
            raise ValueError(f"shape={shape!r}: one of {', '.join(cni.SHAPES)}")
        super().__init__(registry.new_name(), nodes, shape)
        self.captures: list[Capture] = []
        self._dns: DnsServer | None = None
        self._ending = ExitStack()
        self._up = False

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
        lifetime.ends_with_process(self.name, self.down)
        try:
            registry.register(self.name)
            self._ending.callback(registry.remove, self.name)
            self.worker = Worker()
            self._ending.callback(self.worker.close)
            self._ending.callback(self._end_processes)
            self._build()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove everything: servers, processes in the namespaces, namespaces. Harmless when it is down.

        A step that fails does not keep the others from being taken; its error is raised at the end.
        """
        if self._up:
            with lifetime.uninterrupted():
                self._up = False
                lifetime.ended(self.name)
                self._ending.close()

    def leave_standing(self) -> None:
        """Let the namespaces outlive this process; ``python -m lab down`` removes them."""
        registry.disown(self.name)
        self.worker.close()
        self._ending.pop_all()
        self._up = False
        lifetime.ended(self.name)

    def _end_processes(self) -> None:
        for host in self.hosts:
            host.end_processes()

    def echo(
        self,
        address: Address | str,
        tcp: Ports = (),
        udp: Ports = (),
        host: Host | None = None,
        stay: bool = False,
        sctp: Ports = (),
    ) -> Echo:
        """Start a server that answers with who it saw: ``PEER_IP PEER_PORT LOCAL_IP LOCAL_PORT PAYLOAD``.

        On an external service unless ``host`` says where; the address is added when it is missing there. With
        ``stay`` it outlives this process, for labs that are left standing. ``sctp`` needs a kernel that has it.
        """
        server = Echo(self._server_host(host, address), parse(address), tcp, udp, sctp, stay)
        self._ending.callback(server.close)
        return server

    def http(self, address: Address | str, port: int = 80, host: Host | None = None) -> HttpServer:
        """Start an HTTP/1.1 server (see HttpServer) on an external service, or on ``host``."""
        server = HttpServer(self._server_host(host, address), parse(address), port)
        self._ending.callback(server.close)
        return server

    def _server_host(self, host: Host | None, address: Address | str) -> Host:
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
            self._ending.callback(self._dns.close)
        return self._dns

    def capture(self, host: Host | None = None, interface: str = "eth0") -> Capture:
        """Capture what crosses the gateway's LAN side, or another interface. A context manager."""
        capture = Capture(host or self.gateway, interface)
        self._ending.callback(capture.close)
        self.captures.append(capture)
        return capture

    def tcp(self, source: Host, address: Address | str, port: int, payload: str = "hello", timeout: float = 3.0) -> str:
        """Connect from ``source``, send, and return what came back; raises NoReply with the reason."""
        return client.tcp(source, parse(address), port, payload, timeout)

    def udp(self, source: Host, address: Address | str, port: int, payload: str = "hello", timeout: float = 3.0) -> str:
        """Send one datagram from ``source`` and return the answer; raises NoReply with the reason."""
        return client.udp(source, parse(address), port, payload, timeout)

    def sctp(
        self, source: Host, address: Address | str, port: int, payload: str = "hello", timeout: float = 3.0
    ) -> str:
        """Associate from ``source``, send one message, and return what came back; raises NoReply with the reason."""
        return client.sctp(source, parse(address), port, payload, timeout)

    def dump(self, *hosts: Host) -> str:
        """Return addresses, rules, routes, translations and connections of hosts (all, if none) as text."""
        return "\n".join(dump(host) for host in hosts or self.hosts)
