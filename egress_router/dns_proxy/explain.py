"""What happens to a connection to one port of the DNS proxy router. No look-up is made."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.config.values import Family, HostName
from egress_router.dns.resolv_conf import SearchPath, candidates
from egress_router.dns_proxy.destinations import Destination, DnsProxyConfig

SEARCHED = ", in the search domains of the pod's /etc/resolv.conf"


@dataclass(frozen=True, slots=True)
class DnsExplanation:
    """Which line decides about ``port``, None when nothing listens, and what follows from it.

    ``asks`` are the names to look up in order, () when they cannot be told without resolv.conf or the line has an
    address. ``str()`` gives the sentences, ``values()`` the same for JSON.
    """

    port: int
    destination: Destination | None
    config: DnsProxyConfig
    asks: tuple[str, ...] = ()

    def sources(self) -> list[str]:
        """Return the addresses that the connection may leave with; [] when EGRESS_SOURCE is not set here."""
        sources = [source for _, source in sorted(self.config.sources.items())]
        host = self.destination.host if self.destination else None
        if host is not None and not isinstance(host, HostName):
            sources = [source for source in sources if source.version == host.version]
        return [str(source) for source in sources]

    def values(self) -> dict[str, object]:
        """Return plain values."""
        line = self.destination
        return {
            "protocol": "tcp",
            "port": self.port,
            "line": line.line if line else None,
            "rule": str(line) if line else None,
            "host": str(line.host) if line else None,
            "to_port": line.to_port if line else None,
            "asks": list(self.asks),
            "nameservers": [str(server) for server in self.config.nameservers],
            "sources": self.sources() if line else [],
            "check": line.check if line else None,
            "idle_timeout": self.config.idle_timeout if line else None,
        }

    def __str__(self) -> str:
        line = self.destination
        if line is None:
            ports = ", ".join(
                str(item.port) for item in sorted(self.config.destinations, key=lambda item: item.port)[:10]
            )
            return f"tcp port {self.port}: no line claims it: refused (ports that are claimed: {ports})"
        source = " or ".join(self.sources()) or "the egress interface's address (EGRESS_SOURCE is not set here)"
        checks = "a connection every 2 s" if line.check else "off"
        sentences = [
            f'tcp port {self.port}: line {line.line} "{line}" sends it to {self._where(line)}, leaving with {source}',
            f"  connections end after {self.config.idle_timeout} s without traffic; health checks: {checks}",
        ]
        if line.name is not None:
            servers = ", ".join(map(str, self.config.nameservers)) or "those of /etc/resolv.conf"
            asked = f", asked for {' then '.join(self.asks)}" if self.asks else SEARCHED
            sentences.insert(1, f"  name servers: {servers}{asked}")
        return "\n".join(sentences)

    def _where(self, line: Destination) -> str:
        if line.name is None:
            return f"{line.host} port {line.to_port}"
        families = " and ".join(str(family) for family in sorted(self.config.sources or Family))
        return f"every {families} address of {line.name} in turn, port {line.to_port}"


def explain_dns(config: DnsProxyConfig, port: int, search: SearchPath | None = None) -> DnsExplanation:
    """Return what happens to a TCP connection to ``port``; ``search`` is what the pod's resolv.conf says, if known."""
    destination = config.destination_of(port)
    name = destination.name if destination else None
    asks = candidates(name, search or SearchPath()) if name and (search or name.dots) else ()
    return DnsExplanation(port, destination, config, asks)
