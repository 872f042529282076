"""What this pod is and may: its addresses, its families, its low ports."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from egress_router.errors import PlatformError
from egress_router.model.addresses import Family
from egress_router.model.dns_proxy import DnsProxyConfig

#: Addresses of documentation prefixes: whether there is a route tells whether the family leads outside.
_OUTSIDE = {Family.IPV4: (socket.AF_INET, "203.0.113.1"), Family.IPV6: (socket.AF_INET6, "2001:db8::1")}


def require_low_ports(config: DnsProxyConfig) -> None:
    """Raise PlatformError when a port is below what this user may listen on."""
    low = [item for item in config.destinations if item.port < _first_unprivileged_port()]
    if not low or _may_bind_any_port():
        return
    lines = ", ".join(f"{item.port} (line {item.line})" for item in low[:5])
    raise PlatformError(
        f"this user may not listen on port {lines}: net.ipv4.ip_unprivileged_port_start is "
        f"{_first_unprivileged_port()}. The init container sets it with EGRESS_ROUTER_MODE=dns-proxy; the pod can too "
        '(spec.securityContext.sysctls: net.ipv4.ip_unprivileged_port_start="0")'
    )


def _first_unprivileged_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


def _may_bind_any_port() -> bool:
    """Whether we have CAP_NET_BIND_SERVICE (10) in effect, and HAProxy inherits it: as root only."""
    return os.geteuid() == 0 and bool(_effective_capabilities() >> 10 & 1)


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def has_ipv6() -> bool:
    """Whether the kernel lets us listen on IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def families_with_a_route() -> list[Family]:
    """Return the families with a route to the outside, or IPv4 when there is none at all. Nothing is sent."""
    found = []
    for family, (number, outside) in _OUTSIDE.items():
        try:
            with socket.socket(number, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
        except OSError:
            continue
        found.append(family)
    return found or [Family.IPV4]
