"""The DNS proxy router's configuration as haproxy.cfg (HAProxy 2.6 or newer)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from egress_router.config.values import Address, HostName
from egress_router.dns_proxy.destinations import Destination, DnsProxyConfig
from egress_router.dns_proxy.haproxy.runtime import backend_name, server_arguments
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
    ("port", "%fp", False),
)
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


def render_haproxy(
    config: DnsProxyConfig,
    known: Mapping[HostName, Sequence[Address]] | None = None,
    *,
    socket: str = SOCKET,
    ipv6: bool = True,
) -> str:
    """Return haproxy.cfg. ``known`` gives names their servers from the start, which a reload needs.

    ``ipv6`` is false on a kernel without IPv6: listeners are for IPv4 alone then. The same config and the same answers
    always make the same bytes.
    """
    listeners = [_listener(item, config, known or {}, ipv6=ipv6) for item in config.destinations]
    return _template().render(
        listeners=listeners,
        socket=socket,
        idle_timeout=config.idle_timeout,
    )


def _listener(
    destination: Destination, config: DnsProxyConfig, known: Mapping[HostName, Sequence[Address]], *, ipv6: bool
) -> _Listener:
    host = destination.host
    addresses = known.get(host, ()) if isinstance(host, HostName) else (host,)
    servers = tuple(
        _Server(server.name, server_arguments(destination, server.address, config.sources))
        for server in fresh_slots(addresses)
    )
    # Every address of the pod: clients use the one that the cluster gave it.
    binds = [f"0.0.0.0:{destination.port}", *[f"[::]:{destination.port} v6only"] * ipv6]
    return _Listener(
        line=destination.line,
        text=str(destination),
        host=str(host),
        port=destination.port,
        binds=tuple(binds),
        backend=backend_name(destination),
        log_format=_log_format(destination),
        servers=servers,
    )


def _log_format(destination: Destination) -> str:
    fixed = (("line", str(destination.line)), ("name", json.dumps(str(destination.host))))
    words = [*map(_log_field, _LOG_FIELDS), *(f'"{key}":{value}' for key, value in fixed)]
    words.append(f'"to_port":{destination.to_port}')
    words += map(_log_field, _LOG_FIELDS_BEHIND)
    return "{" + ",".join(words) + "}"


def _log_field(item: tuple[str, str, bool]) -> str:
    name, value, text = item
    return f'"{name}":"{value}"' if text else f'"{name}":{value}'


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("egress_router.dns_proxy.haproxy", "")
    # No HTML here, hence no escaping.
    environment = Environment(  # noqa: S701
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template(TEMPLATE)
