"""Ports of a list that clients cannot reach, since Services and NetworkPolicies of the same files name ports too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from egress_router.config.settings import HEALTH_PORT
from egress_router.config.values import PortRange, Protocol
from egress_router.errors import Problem, few
from egress_router.manifests.containers import ManifestPod, Role
from egress_router.manifests.objects import ManifestObject, as_list, as_text
from egress_router.manifests.pod import PodConfig
from egress_router.manifests.services import Services

Ports = set[tuple[Protocol, PortRange]]
#: More are counted.
_SHOWN = 5


def reach_warnings(pod: ManifestPod, config: PodConfig, services: Services, policies: Services) -> Iterator[Problem]:
    """Yield what keeps clients from a port of the list, and what of a Service leads to no line of it."""
    labels, namespace = pod.item.pod_labels, pod.item.namespace
    listens = _listens(config)
    yield from _election_warnings(pod, config, policies.selecting(labels, namespace))
    if config.router is not None and config.router.mode.redirects and not config.router.rules.claims:
        # A fallback alone: any port will do.
        return
    found = [item for item in services.selecting(labels, namespace) if item.spec.get("clusterIP") != "None"]
    targets: Ports = {port for item in found for port in _targets(item, pod)}
    if found:
        where = ", ".join(item.where for item in found)
        if lacking := _shown(listens, targets):
            message = f"has no port that leads to {lacking}, which the list of {pod.name} has"
            yield Problem(where, None, "", message, "a port of the Service for each line; `manifests` writes them anew")
        if not _takes_every_port(config):
            others = {(Protocol.TCP, PortRange(HEALTH_PORT, HEALTH_PORT)), *_of_other_containers(pod)}
            if nowhere := _shown(targets, listens | others):
                yield Problem(where, None, "", f"leads to {nowhere}, and no line of {pod.name} claims that")
    where, opened = _opened_together(policies.selecting(labels, namespace))
    if lacking := _shown(listens, opened) if where else "":
        message = f"lets nobody in to {lacking}, which the list of {pod.name} has"
        yield Problem(where, None, "", message, "the port among its ports; `manifests` writes them anew")


def _election_warnings(pod: ManifestPod, config: PodConfig, policies: Iterable[ManifestObject]) -> Iterator[Problem]:
    """Yield the NetworkPolicies by which the routers of a pair that elects between its pods do not hear each other."""
    pair = None if config.router is None else config.router.pair
    if pair is None or not pair.by_cluster:
        return
    hears = {(Protocol.UDP, PortRange(pair.port, pair.port))}
    where, opened = _opened_together(policies)
    if lacking := _shown(hears, opened) if where else "":
        message = f"lets nobody in to {lacking}, by which {pod.name} elects with the other routers of its pair"
        yield Problem(where, None, "", message, "the port among its ports, from the pair's own pods")


def _listens(config: PodConfig) -> Ports:
    """Return the ports that clients may ask the pod for."""
    found: Ports = set()
    if config.router is not None and config.router.mode.redirects:
        found |= {(rule.protocol, rule.ports) for rule in config.router.rules.claims}
    ports = [config.http.settings.port] if config.http is not None else []
    ports += config.dns.ports if config.dns is not None else ()
    return found | {(Protocol.TCP, PortRange(port, port)) for port in ports}


def _takes_every_port(config: PodConfig) -> bool:
    rules = config.router.rules if config.router is not None and config.router.mode.redirects else None
    return rules is not None and bool(rules.fallbacks or rules.named_fallback)


def _targets(item: ManifestObject, pod: ManifestPod) -> Iterator[tuple[Protocol, PortRange]]:
    names = {
        as_text(port.get("name")): port.get("containerPort")
        for container in pod.containers
        for port in as_list(container.raw.get("ports"))
    }
    for port in as_list(item.spec.get("ports")):
        target = port.get("targetPort") or port.get("port")
        number = names.get(target, int(target) if target.isdigit() else None) if isinstance(target, str) else target
        yield from _port(port, number, number)


def _of_other_containers(pod: ManifestPod) -> Iterator[tuple[Protocol, PortRange]]:
    for container in pod.containers:
        # That of a pair beside a proxy has a health port of its own.
        if not container.roles or Role.RUN in container.roles:
            for port in as_list(container.raw.get("ports")):
                yield from _port(port, port.get("containerPort"), port.get("containerPort"))


def _opened_together(policies: Iterable[ManifestObject]) -> tuple[str, Ports]:
    """Return the names of NetworkPolicies of one pod, and the ports that they let somebody in to, each adding to the
    others; no name where all ports are open.
    """
    found: Ports = set()
    names = []
    for item in policies:
        kinds = item.spec.get("policyTypes")
        if isinstance(kinds, list) and "Ingress" not in kinds:
            continue
        opened = _opened(item)
        if opened is None:
            return "", set()
        names.append(item.where)
        found |= opened
    return ", ".join(names), found


def _opened(item: ManifestObject) -> Ports | None:
    """Return the ports that a NetworkPolicy lets somebody in to; None for any."""
    found: Ports = set()
    for rule in as_list(item.spec.get("ingress")):
        if not rule.get("ports"):
            return None
        for port in as_list(rule.get("ports")):
            if type(port.get("port")) is not int:
                # Any port, or one by its name.
                return None
            found |= set(_port(port, port.get("port"), port.get("endPort") or port.get("port")))
    return found


def _port(port: Mapping[str, Any], first: Any, last: Any) -> Iterator[tuple[Protocol, PortRange]]:
    protocol = as_text(port.get("protocol") or "TCP").lower()
    if type(first) is int and type(last) is int and protocol in list(Protocol):
        yield Protocol(protocol), PortRange(first, last)


def _shown(wanted: Ports, there: Ports) -> str:
    """Return the ports of ``wanted`` that are not all ``there``, in words; "" for none."""
    lacking = [
        f"{ports} {protocol}"
        for protocol, ports in sorted(wanted)
        if not _covered(ports, [other for known, other in there if known is protocol])
    ]
    return few(lacking, _SHOWN)


def _covered(ports: PortRange, others: list[PortRange]) -> bool:
    """Return whether every port of a range is in one of the others."""
    at = ports.first
    for other in sorted(others):
        if other.first <= at <= other.last:
            at = other.last + 1
    return at > ports.last
