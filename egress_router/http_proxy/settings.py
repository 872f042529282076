"""What the EGRESS_HTTP_PROXY_* variables say that are not the policy, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egress_router.config.run_dir import DEFAULT_RUN_DIR
from egress_router.http_proxy.parent import Parent
from egress_router.policy.values import ANY_PORT, Address, Ports


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Everything about the proxy that is not the policy. ``grace`` and ``delay`` in seconds; ``sources`` one a family.

    ``workers`` are the Squids that share the work (None: as many as there are processors for them), ``health_port`` is
    None for none. ``idle_timeout`` in seconds. ``ipv6_clients``: listen on IPv6 though nothing leaves by it.
    ``parent``: the proxy that requests go on to. ``connect_sni``: the name in a ClientHello must be the host of the
    CONNECT. ``run_dir``: the one directory that is written to. ``page``: whether people get one at `/` of the health
    port; ``page_hosts``: further names that it is served by.
    """

    port: int = 8080
    connect_ports: Ports = ANY_PORT
    max_clients: int = 4096
    workers: int | None = None
    access_log: bool = True
    grace: float = 30.0
    delay: float = 0.0
    sources: tuple[Address, ...] = ()
    health_port: int | None = None
    idle_timeout: int = 900
    ipv6_clients: bool = False
    parent: Parent | None = None
    connect_sni: bool = False
    run_dir: Path = DEFAULT_RUN_DIR
    page: bool = True
    page_hosts: tuple[str, ...] = ()
