"""The EGRESS_HTTP_PROXY_* variables that are not the policy, and the grace of EGRESS_SHUTDOWN_GRACE."""

from __future__ import annotations

import re

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.run_dir import parse_run_dir
from egress_router.config.settings import (
    on_off,
    parse_health_port,
    parse_page,
    parse_page_hosts,
    seconds,
    shutdown_delay,
    source_addresses,
    unclaimed_port,
)
from egress_router.http_proxy.parent import VARIABLE as PARENT
from egress_router.http_proxy.parent import parse_parent
from egress_router.http_proxy.settings import HttpSettings
from egress_router.policy.port_lists import parse_ports
from egress_router.policy.values import ANY_PORT, Ports

#: Squid of Debian is compiled with 65536 descriptors, and a client may need three.
MAX_CLIENTS = 20_000
#: More than any machine needs to fill its link.
MAX_WORKERS = 64
#: They stand on one line of squid.conf, which has a limit.
MAX_PORT_RANGES = 256
DAY = 86400
#: It stands on lines of squid.conf.
LONGEST_RUN_DIR = 400
#: As for the DNS proxy.
LONGEST_IDLE = 24 * DAY


def parse_http_settings(inputs: Inputs, problems: Problems) -> HttpSettings:
    """Return the settings; what is unset has its default, what is wrong is noted and has its default."""
    default = HttpSettings()
    port = _number(inputs, problems, "EGRESS_HTTP_PROXY_PORT", default.port, 1, 65535)
    health = parse_health_port(inputs, problems)
    return HttpSettings(
        port=port,
        connect_ports=_connect_ports(inputs, problems),
        max_clients=_number(inputs, problems, "EGRESS_HTTP_PROXY_MAX_CLIENTS", default.max_clients, 1, MAX_CLIENTS),
        workers=_workers(inputs, problems),
        access_log=on_off(inputs, problems, "EGRESS_HTTP_PROXY_ACCESS_LOG"),
        grace=float(seconds(inputs, problems, "EGRESS_SHUTDOWN_GRACE", int(default.grace), 0, DAY)),
        delay=float(shutdown_delay(inputs, problems) or 0),
        sources=tuple(source_addresses(inputs, problems).values()),
        idle_timeout=seconds(inputs, problems, "EGRESS_HTTP_PROXY_IDLE_TIMEOUT", default.idle_timeout, 1, LONGEST_IDLE),
        parent=parse_parent(inputs, problems),
        connect_sni=_connect_sni(inputs, problems),
        page=parse_page(inputs, problems),
        page_hosts=parse_page_hosts(inputs, problems),
        run_dir=parse_run_dir(inputs, problems, LONGEST_RUN_DIR),
        ipv6_clients=on_off(inputs, problems, "EGRESS_HTTP_PROXY_IPV6_CLIENTS", default=False),
        health_port=unclaimed_port(inputs, problems, health, "EGRESS_HTTP_PROXY_PORT" if health == port else ""),
    )


def _connect_sni(inputs: Inputs, problems: Problems) -> bool:
    variable = "EGRESS_HTTP_PROXY_CONNECT_SNI"
    text = (inputs.value(variable) or "off").lower()
    if text not in ("check", "off"):
        problems.error(variable, None, text, "is not known", "check or off")
    elif text == "check" and any(inputs.value(name) for name in (PARENT, f"{PARENT}_FILE")):
        problems.error(variable, None, text, f"cannot be used with {PARENT}", "let the parent proxy check it")
    return text == "check"


def _number(
    inputs: Inputs, problems: Problems, variable: str, default: int, low: int, high: int, or_else: str = ""
) -> int:
    text = inputs.value(variable)
    if text is None:
        return default
    if re.fullmatch(r"0|[1-9][0-9]{0,9}", text, re.ASCII) and low <= int(text) <= high:
        return int(text)
    problems.error(variable, None, text, "is not in range", f"a number from {low} to {high}{or_else}")
    return default


def _workers(inputs: Inputs, problems: Problems) -> int | None:
    variable = "EGRESS_HTTP_PROXY_WORKERS"
    if (inputs.value(variable) or "auto").lower() == "auto":
        return None
    return _number(inputs, problems, variable, 1, 1, MAX_WORKERS, " or auto")


def _connect_ports(inputs: Inputs, problems: Problems) -> Ports:
    variable = "EGRESS_HTTP_PROXY_CONNECT_PORTS"
    text = inputs.value(variable)
    if text is None or text.lower() == "any":
        return ANY_PORT
    try:
        ports = parse_ports(text)
        if len(ports.ranges) > MAX_PORT_RANGES:
            raise ValueError(f"has more than {MAX_PORT_RANGES} ports or ranges")
    except ValueError as error:
        problems.error(variable, None, text, str(error), "any, or ports such as 443,8443")
        return ANY_PORT
    return ports
