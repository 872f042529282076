"""The DNS proxy router's configuration as haproxy.cfg (HAProxy 2.6 or newer)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.config.values import Address, Family, HostName, Network
from egress_router.dns_proxy.destinations import Destination, DnsProxyConfig
from egress_router.dns_proxy.haproxy.runtime import backend_name, endpoint, server_arguments
from egress_router.dns_proxy.haproxy.slots import fresh_slots

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "haproxy.cfg.j2"
#: The socket where none is given, as in ``plan``.
SOCKET = "/run/egress-router/haproxy.sock"

#: Field of the access log → HAProxy's format, and whether it is text. In TCP mode nothing of it is the client's to
#: choose. ``time`` is when the connection ended, ``started`` (Unix time) when it was accepted. ``state`` is HAProxy's
#: termination state (configuration.txt, 8.5): "--" is a normal end.
_LOG_FIELDS: tuple[tuple[str, str, bool], ...] = (
    ("time", '%[date,utime("%Y-%m-%dT%H:%M:%SZ")]', True),
    ("started", "%Ts.%ms", False),
    ("client", "%ci", True),
    ("client_port", "%cp", False),
)
#: Of connections by name: ``asked`` is what the router said (by_name.router), "-" when it was not asked or did not say.
_BY_NAME_FIELDS: tuple[tuple[str, str, bool], ...] = (
    ("asked", "%[var(txn.record)]", True),
    # Where it was to go, of those too that did not get there.
    ("to", "%[var(txn.address)]", True),
)
_HTTP_FIELDS: tuple[tuple[str, str, bool], ...] = (("method", "%HM", True), ("status", "%ST", False))
_LOG_FIELDS_BEHIND: tuple[tuple[str, str, bool], ...] = (
    ("address", "%[bc_dst]", True),
    ("source", "%bi", True),
    ("connect_ms", "%Tc", False),
    ("duration_ms", "%Tt", False),
    ("bytes_up", "%U", False),
    ("bytes_down", "%B", False),
    ("retries", "%rc", True),
    ("state", "%ts", True),
)


#: What is counted of connections to destinations, and all that is written of them where the access log is off: about
#: addresses HAProxy asks the kernel.
_COUNTED = frozenset({"bytes_up", "bytes_down", "state"})


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class _Listener:
    line: int
    text: str
    host: str
    port: int
    binds: tuple[str, ...]
    backend: str
    log_format: str
    servers: tuple[_Server, ...]


@dataclass(frozen=True, slots=True)
class _ByName:
    kind: str
    port: int
    binds: tuple[str, ...]
    log_format: str


#: What HAProxy runs to ask where a connection by name goes.
ROUTE_LUA = str(Path(__file__).parent / "route.lua")


def route_socket(socket: str) -> str:
    """Return where the HAProxy with this stats socket asks for the way of connections by name."""
    return socket.removesuffix(".sock") + ".route"


def render_haproxy(
    config: DnsProxyConfig,
    known: Mapping[HostName, Sequence[Address]] | None = None,
    *,
    socket: str = SOCKET,
    ipv6: bool = True,
    route_lua: str = "route.lua",
    cluster: Sequence[Network] = (),
) -> str:
    """Return haproxy.cfg. ``known`` gives names their servers from the start, which a reload needs.

    ``ipv6`` is false on a kernel without IPv6: listeners are for IPv4 alone then. The same config and the same answers
    always make the same bytes. ``route_lua`` is where HAProxy finds what asks for the way of connections by name.
    ``cluster``: what the routes send into the cluster, where EGRESS_SOURCE has no business.
    """
    listeners = [_listener(item, config, known or {}, cluster, ipv6=ipv6) for item in config.destinations]
    return load_template().render(
        listeners=listeners,
        socket=socket,
        idle_timeout=config.idle_timeout,
        by_name=_by_name(config, ipv6=ipv6),
        route_lua=route_lua,
        route_socket=route_socket(socket),
        families=sorted(family.value for family in config.sources or Family),
        sources={family.value: endpoint(source, 0) for family, source in config.sources.items()},
    )


def _by_name(config: DnsProxyConfig, *, ipv6: bool) -> list[_ByName]:
    if config.by_name is None:
        return []
    ports = [("tls", port) for port in config.by_name.tls_ports] + [
        ("http", port) for port in config.by_name.http_ports
    ]
    return [_ByName(kind, port, _binds(port, ipv6=ipv6), _by_name_format(kind, port)) for kind, port in ports]


def _binds(port: int, *, ipv6: bool) -> tuple[str, ...]:
    """Return every address of the pod: clients use the one that the cluster gave it."""
    return (f"0.0.0.0:{port}", *[f"[::]:{port} v6only"] * ipv6)


def _by_name_format(kind: str, port: int) -> str:
    fields = (*_BY_NAME_FIELDS, *(_HTTP_FIELDS if kind == "http" else ()), *_LOG_FIELDS_BEHIND)
    front = [f'"kind":"{kind}"', *map(_log_field, _LOG_FIELDS), f'"port":{port}']
    return "{" + ",".join([*front, *map(_log_field, fields)]) + "}"


def _listener(
    destination: Destination,
    config: DnsProxyConfig,
    known: Mapping[HostName, Sequence[Address]],
    cluster: Sequence[Network],
    *,
    ipv6: bool,
) -> _Listener:
    host = destination.host
    addresses = known.get(host, ()) if isinstance(host, HostName) else (host,)
    servers = tuple(
        _Server(server.name, server_arguments(destination, server.address, _sources(server.address, config, cluster)))
        for server in fresh_slots(addresses)
    )
    return _Listener(
        line=destination.line,
        text=str(destination),
        host=str(host),
        port=destination.port,
        binds=_binds(destination.port, ipv6=ipv6),
        backend=backend_name(destination),
        log_format=_log_format(destination, whole=config.access_log),
        servers=servers,
    )


def _sources(address: Address, config: DnsProxyConfig, cluster: Sequence[Network]) -> Mapping[Family, Address]:
    """Return what a connection to an address leaves with; none is set where the route leads into the cluster."""
    inside = any(address.version == network.version and address in network for network in cluster)
    return {} if inside else config.sources


def _log_format(destination: Destination, *, whole: bool) -> str:
    """Return the log-format of a destination. Not ``whole``: what is counted, for where the access log is off.

    The port is the frontend's only one: HAProxy would ask the kernel for that of each connection (``%fp``).
    """
    fields, behind = (
        [_log_field(item) for item in items if whole or item[0] in _COUNTED]
        for items in (_LOG_FIELDS, _LOG_FIELDS_BEHIND)
    )
    line = [f'"line":{destination.line}'] if whole else []
    name = [f'"name":{json.dumps(str(destination.host))}', f'"to_port":{destination.to_port}']
    return "{" + ",".join([*fields, f'"port":{destination.port}', *line, *name, *behind]) + "}"


def _log_field(item: tuple[str, str, bool]) -> str:
    name, value, text = item
    return f'"{name}":"{value}"' if text else f'"{name}":{value}'


@cache
def load_template() -> Template:
    """Return the template of haproxy.cfg, compiled; whoever gives root up calls it before, since what it imports may be
    what only root can read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("egress_router.dns_proxy.haproxy", "")
    # No HTML here, hence no escaping.
    environment = Environment(  # noqa: S701
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template(TEMPLATE)
