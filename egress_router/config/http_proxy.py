"""The EGRESS_HTTP_PROXY_* variables that are not the policy, and the grace of EGRESS_SHUTDOWN_GRACE."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from egress_router.config.http_ports import parse_ports
from egress_router.config.inputs import Inputs, Problems
from egress_router.model.http_policy import ANY_PORT, Address, HttpSettings, Ports

#: Squid of Debian is compiled with 65536 descriptors, and a client may need three.
MAX_CLIENTS = 20_000
#: They stand on one line of squid.conf, which has a limit.
MAX_PORT_RANGES = 256


def parse_http_settings(inputs: Inputs, problems: Problems) -> HttpSettings:
    """Return the settings; what is unset has its default, what is wrong is noted and has its default."""
    default = HttpSettings()
    return HttpSettings(
        port=_number(inputs, problems, "EGRESS_HTTP_PROXY_PORT", default.port, 1, 65535),
        connect_ports=_connect_ports(inputs, problems),
        max_clients=_number(inputs, problems, "EGRESS_HTTP_PROXY_MAX_CLIENTS", default.max_clients, 1, MAX_CLIENTS),
        access_log=_switch(inputs, problems, "EGRESS_HTTP_PROXY_ACCESS_LOG"),
        grace=float(_number(inputs, problems, "EGRESS_SHUTDOWN_GRACE", int(default.grace), 0, 86400, suffix="s")),
        sources=_sources(inputs, problems),
    )


def _number(
    inputs: Inputs, problems: Problems, variable: str, default: int, low: int, high: int, suffix: str = ""
) -> int:
    text = inputs.value(variable)
    if text is None:
        return default
    bare = text.removesuffix(suffix) if suffix else text
    if re.fullmatch(r"0|[1-9][0-9]{0,9}", bare) and low <= int(bare) <= high:
        return int(bare)
    unit = " (seconds)" if suffix else ""
    problems.error(variable, None, text, "is not in range", f"a number from {low} to {high}{unit}")
    return default


def _switch(inputs: Inputs, problems: Problems, variable: str) -> bool:
    text = (inputs.value(variable) or "on").lower()
    if text not in ("on", "off"):
        problems.error(variable, None, text, "is neither on nor off", "on or off")
    return text != "off"


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


def _sources(inputs: Inputs, problems: Problems) -> tuple[Address, ...]:
    """Return the addresses of EGRESS_SOURCE, whose rules are the redirect router's: only what parses is taken here."""
    text = inputs.value("EGRESS_SOURCE")
    found: dict[int, Address] = {}
    for item in re.split(r"[,\s]+", text) if text else []:
        family = IPv6Address if ":" in item else IPv4Address
        try:
            address: Address = family(item.partition("/")[0])
        except AddressValueError:
            problems.error("EGRESS_SOURCE", None, item, "is not an address", "such as 192.0.2.46 or 192.0.2.46/24")
            continue
        if address.version in found:
            problems.error("EGRESS_SOURCE", None, item, "is a second address of its family", "one of each family")
        found.setdefault(address.version, address)
    return tuple(found.values())
