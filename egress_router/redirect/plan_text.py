"""The desired state for people, and as JSON."""

from __future__ import annotations

from typing import Any

from egress_router.net.rtnetlink.values import Route
from egress_router.redirect.values import Desired, Fallback, NamedRedirect, Redirect, RouterConfig, Rule


def plan_text(desired: Desired, config: RouterConfig) -> str:
    """Return the plan in the words of ip(8), in the order in which it is put in place, then the redirect rules."""
    network = desired.network
    lines = [f"egress interface {network.egress}, cluster interface {network.cluster}", ""]
    lines += [str(item) for item in (*network.sysctls, *network.addresses, *network.routes, *network.rules)]
    lines += [f"no {route}" for route in network.displaced]
    if config.mode.redirects:
        lines.append("")
        for rule in config.rules.all:
            lines.append(f"line {rule.line}: {rule}, {_leaving(rule, config)}")
    return "".join(f"{line}\n" for line in lines)


def _leaving(rule: Rule, config: RouterConfig) -> str:
    if isinstance(rule, Redirect | Fallback):
        return f"leaving with {config.sources[rule.family].ip}"
    sources = " or ".join(str(config.sources[family].ip) for family in sorted(config.sources))
    return f"every address of {rule.name}, as `egress-router run` keeps looking it up, leaving with {sources}"


def plan_json(desired: Desired, config: RouterConfig) -> dict[str, Any]:
    """Return the plan as plain values; addresses and prefixes are strings, ports are [first, last]."""
    network = desired.network
    return {
        "mode": str(config.mode),
        "egress_interface": network.egress,
        "cluster_interface": network.cluster,
        "pod_addresses": [
            str(item) for family in sorted(network.pod_addresses) for item in network.pod_addresses[family]
        ],
        "sources": [str(config.sources[family]) for family in sorted(config.sources)],
        "gateways": [str(config.gateways[family]) for family in sorted(config.gateways)],
        "sysctls": {item.key.replace("/", "."): item.value for item in network.sysctls},
        "routes": [_route(route) for route in network.routes],
        "removed_routes": [_route(route) for route in network.displaced],
        "rules": [
            {
                "family": rule.family.value,
                "priority": rule.priority,
                "from": str(rule.source) if rule.source else None,
                "iif": rule.in_interface,
                "table": rule.table,
            }
            for rule in network.rules
        ],
        "cluster_prefixes": [
            str(item) for family in sorted(network.cluster_prefixes) for item in network.cluster_prefixes[family]
        ],
        "destinations": [_destination(rule) for rule in desired.translation.rules.all],
    }


def _route(route: Route) -> dict[str, Any]:
    return {
        "family": route.family.value,
        "type": route.type,
        "dst": str(route.destination),
        "via": str(route.gateway) if route.gateway else None,
        "dev": route.interface,
        "src": str(route.source) if route.source else None,
        "metric": route.metric,
        "table": route.table,
    }


def _destination(rule: Rule) -> dict[str, Any]:
    to = {"address": str(rule.address)} if isinstance(rule, Redirect | Fallback) else {"name": str(rule.name)}
    if isinstance(rule, Redirect | NamedRedirect):
        return {
            "line": rule.line,
            "protocol": str(rule.protocol),
            "ports": [rule.ports.first, rule.ports.last],
            **to,
            "to_ports": [rule.to_ports.first, rule.to_ports.last],
        }
    return {"line": rule.line, "fallback": True, **to}
