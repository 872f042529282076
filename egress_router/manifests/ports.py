"""The ports of a router as its Service, its NetworkPolicy and its probes need them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from egress_router.config.values import Family, PortRange, Protocol
from egress_router.manifests.values import (
    Attach,
    ManifestRequest,
    PolicyPort,
    ServicePort,
)
from egress_router.redirect.values import Ruleset


def rule_families(rules: Ruleset, sources: Iterable[Family]) -> set[Family]:
    """Return the families that the rules redirect; with names, those of the sources."""
    if rules.names:
        return set(sources)
    return {rule.family for rule in rules.redirects} | {rule.family for rule in rules.fallbacks}


def claimed(request: ManifestRequest) -> list[tuple[Protocol, PortRange]]:
    """Return the ports that the router listens on or redirects, sorted, each once; ranges as they were written."""
    if request.rules is not None:
        return sorted({(rule.protocol, rule.ports) for rule in request.rules.claims})
    if request.dns is not None:
        return sorted((Protocol.TCP, PortRange(port, port)) for port in request.dns.ports)
    port = request.http_port or 8080
    return [(Protocol.TCP, PortRange(port, port))]


def service_ports(request: ManifestRequest) -> tuple[ServicePort, ...]:
    """Return one port for each that a client may ask for."""
    found = {(protocol, port) for protocol, ports in claimed(request) for port in range(ports.first, ports.last + 1)}
    return tuple(ServicePort(f"{protocol}-{port}", protocol, port) for protocol, port in sorted(found))


def service_port_count(request: ManifestRequest) -> int:
    """Return how many ports a Service would need, at most (ranges of two families may overlap)."""
    return sum(len(ports) for _, ports in claimed(request))


def fallback_lines(request: ManifestRequest) -> list[int]:
    """Return the lines that take every port which no other one claims."""
    if request.rules is None:
        return []
    named = request.rules.named_fallback
    return [*(rule.line for rule in request.rules.fallbacks), *([named.line] if named else [])]


def policy_ports(request: ManifestRequest, attach: Attach) -> tuple[PolicyPort, ...]:
    """Return the ports that the NetworkPolicy opens; none where a fallback takes every port."""
    if fallback_lines(request):
        return ()
    more = kept_ports(request)
    if attach is Attach.SDN:
        # OpenShift SDN's network policy has no endPort.
        single = {(port.protocol, PortRange(port.port, port.port)) for port in service_ports(request)}
        return tuple(PolicyPort(protocol, ports) for protocol, ports in sorted(single | more))
    return tuple(PolicyPort(protocol, ports) for protocol, ports in _joined(sorted({*claimed(request), *more})))


def kept_ports(request: ManifestRequest) -> set[tuple[Protocol, PortRange]]:
    """Return the ports of pods that kept Services lead to, those of other containers among them."""
    found = set()
    for service in request.services:
        for port in service.spec.get("ports") or ():
            number, protocol = port.get("targetPort"), str(port.get("protocol", "TCP")).lower()
            if type(number) is int and 0 < number < 65536 and protocol in list(Protocol):
                found.add((Protocol(protocol), PortRange(number, number)))
    return found


def _joined(sorted_ports: list[tuple[Protocol, PortRange]]) -> Iterator[tuple[Protocol, PortRange]]:
    """Yield ranges of one protocol that adjoin or overlap as one."""
    waiting: tuple[Protocol, PortRange] | None = None
    for protocol, ports in sorted_ports:
        if waiting is not None and waiting[0] is protocol and ports.first <= waiting[1].last + 1:
            waiting = protocol, PortRange(waiting[1].first, max(waiting[1].last, ports.last))
            continue
        if waiting is not None:
            yield waiting
        waiting = protocol, ports
    if waiting is not None:
        yield waiting
