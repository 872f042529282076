"""What happens to a connection to one port of the DNS proxy router, in words. No look-up is made."""

from __future__ import annotations

from egress_router.model.addresses import Family
from egress_router.model.dns_proxy import Destination, DnsProxyConfig, HostName
from egress_router.plan.dns_proxy_names import SearchPath, candidates


def explain_dns(config: DnsProxyConfig, port: int, search: SearchPath | None = None) -> str:
    """Return the explanation: which line decides, where the connection goes, which source address it leaves with.

    With ``search`` (the pod's resolv.conf) the names that will be asked for are listed in order.
    """
    destination = config.destination_of(port)
    if destination is None:
        ports = ", ".join(str(item.port) for item in sorted(config.destinations, key=lambda item: item.port)[:10])
        return f"{port}/tcp: nothing listens, the connection is refused (ports that do: {ports or 'none'})"
    lines = [
        f"{port}/tcp: line {destination.line} of EGRESS_DNS_PROXY_DESTINATION decides: {destination}",
        *_where(config, destination, search),
        f"  leaves with: {_sources(config, destination)}",
        f"  idle connections end after {config.idle_timeout} s",
        f"  health checks: {'a connection every 2 s' if destination.check else 'off'}",
    ]
    return "\n".join(lines)


def _where(config: DnsProxyConfig, destination: Destination, search: SearchPath | None) -> list[str]:
    if destination.name is None:
        return [f"  goes to: {destination.host} port {destination.to_port}"]
    families = [str(family) for family in sorted(config.sources or tuple(Family))]
    lines = [
        f"  goes to: every {' and '.join(families)} address of {destination.host} in turn, port {destination.to_port}",
        f"  name servers: {', '.join(map(str, config.nameservers)) or 'those of /etc/resolv.conf'}",
    ]
    if search is not None:
        asked = " then ".join(candidates(destination.name, search))
        lines.append(f"  asks for: {asked} (the first that has an address)")
    return lines


def _sources(config: DnsProxyConfig, destination: Destination) -> str:
    if not config.sources:
        return "the address of the egress interface (EGRESS_SOURCE is not set here)"
    sources = [source for _, source in sorted(config.sources.items())]
    if not isinstance(destination.host, HostName):
        sources = [source for source in sources if source.version == destination.host.version]
    return " or ".join(map(str, sources))
