"""The ports of a router as its Service, its NetworkPolicy and its probes need them."""

from __future__ import annotations

from egress_router.model.manifests import Attach, ManifestRequest, PolicyPort, ServicePort
from egress_router.model.router import PortRange, Protocol


def claimed(request: ManifestRequest) -> list[tuple[Protocol, PortRange]]:
    """Return the ports that the router listens on or redirects, sorted, each once; ranges as they were written."""
    if request.rules is not None:
        return sorted({(rule.protocol, rule.ports) for rule in request.rules.redirects})
    if request.dns is not None:
        return sorted((Protocol.TCP, PortRange(item.port, item.port)) for item in request.dns.destinations)
    port = request.http_port or 8080
    return [(Protocol.TCP, PortRange(port, port))]


def service_ports(request: ManifestRequest) -> tuple[ServicePort, ...]:
    """Return one port for each that a client may ask for."""
    found = {(protocol, port) for protocol, ports in claimed(request) for port in range(ports.first, ports.last + 1)}
    return tuple(ServicePort(f"{protocol}-{port}", protocol, port) for protocol, port in sorted(found))


def service_port_count(request: ManifestRequest) -> int:
    """Return how many ports a Service would need, at most (ranges of two families may overlap)."""
    return sum(len(ports) for _, ports in claimed(request))


def policy_ports(request: ManifestRequest, attach: Attach) -> tuple[PolicyPort, ...]:
    """Return the ports that the NetworkPolicy opens; none where a fallback takes every port."""
    if request.rules is not None and request.rules.fallbacks:
        return ()
    if attach is Attach.SDN:
        # OpenShift SDN's network policy has no endPort.
        return tuple(PolicyPort(port.protocol, PortRange(port.port, port.port)) for port in service_ports(request))
    return tuple(PolicyPort(protocol, ports) for protocol, ports in claimed(request))
