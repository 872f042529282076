"""Why what pods of a namespace send to a destination leaves as it does, in words. Pure."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from egress_router.config.values import Address
from egress_router.egressip.api import Decision, Disposition, NamespaceDecision

_PLAIN = "directly, with the address that the container network gives"


def explain(decision: Decision, namespace: str, destination: Address) -> list[str]:
    """Return the verdict on what pods of ``namespace`` send to a destination outside the cluster, and then its reasons,
    a line each.
    """
    verdict = decision.namespaces.get(namespace)
    if verdict is None:
        return ["dropped: no object tells of the namespace"]
    if verdict.disposition is Disposition.NORMAL:
        return [f"{_PLAIN}: the namespace has no egress IPs"]
    network = next((text for text in verdict.excepted if destination in ip_network(text)), None)
    if network is not None:
        return [f"{_PLAIN}: {network} is excepted"]
    return _by_egress_ip(verdict, destination.version)


def _by_egress_ip(verdict: NamespaceDecision, version: int) -> list[str]:
    ways = [f"{via.ip} on {via.node}" for via in verdict.via if ip_address(via.ip).version == version]
    if not ways and verdict.node_ip:
        why = f"there is no usable egress IP of IPv{version}, and whenUnavailable is NodeIP"
        return [f"{_PLAIN}: {why}", *verdict.reasons]
    if not ways:
        return [f"dropped: the namespace has no usable egress IP of IPv{version}", *verdict.reasons]
    chosen = ": each pod keeps one as long as it can" if len(ways) > 1 else ""
    return [f"with {' or '.join(ways)}{chosen}", *verdict.reasons]
