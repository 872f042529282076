"""The variables of ``egress-router run``: the router's, and those of a router that stays."""

from __future__ import annotations

from collections.abc import Mapping

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.inputs import Inputs, Problems
from egress_router.config.settings import VARIABLE as HEALTH
from egress_router.config.settings import (
    parse_health_port,
    parse_page,
    parse_page_hosts,
    seconds,
    shutdown_delay,
    unclaimed_port,
)
from egress_router.config.values import Family, Interface, Protocol, family_of
from egress_router.records import replace
from egress_router.redirect.config import parse_router
from egress_router.redirect.pair.config import EXPECTED_PEERS, NETWORK, PEERS, PORT
from egress_router.redirect.pair.config import VARIABLE as PAIR
from egress_router.redirect.pair.values import PairConfig
from egress_router.redirect.values import Check, Mode, RouterConfig, RunConfig

EXPECTED_CHECK = "ADDRESS:PORT, such as 203.0.113.25:443 or [2001:db8::25]:443"
_DAY = 86400


def parse_run(inputs: Inputs, problems: Problems) -> RunConfig | None:
    """Return the configuration of a router that stays, None when something is wrong (every problem is noted)."""
    router = parse_router(inputs, problems)
    if router is not None and not stays(router):
        message = "is not for a router that stays"
        expected = "unset, or legacy; `egress-router init` does init, http-proxy and dns-proxy"
        if router.mode is not Mode.INIT:
            message += f", but for one beside a proxy of a pair, with {PAIR}"
        problems.error("EGRESS_ROUTER_MODE", None, str(router.mode), message, expected)
    run = parse_staying(inputs, problems, router)
    return run if router is not None and stays(router) else None


def stays(router: RouterConfig) -> bool:
    """Whether ``egress-router run`` does what is in the configuration: redirect, or have the address of a pair for the
    proxy in the same pod.
    """
    return router.mode is Mode.LEGACY or (router.pair is not None and router.mode is not Mode.INIT)


def parse_staying(inputs: Inputs, problems: Problems, router: RouterConfig | None) -> RunConfig | None:
    """Add to ``router`` what a router that stays needs; None when something is wrong."""
    before = len(problems.errors)
    health = parse_health_port(inputs, problems)
    grace = seconds(inputs, problems, "EGRESS_SHUTDOWN_GRACE", 30, 0, _DAY)
    delay = shutdown_delay(inputs, problems)
    announce = seconds(inputs, problems, "EGRESS_ANNOUNCE_INTERVAL", 30, 0, _DAY)
    probe = seconds(inputs, problems, "EGRESS_PROBE_INTERVAL", 3, 1, _DAY)
    hold = seconds(inputs, problems, "EGRESS_NAME_HOLD", 3600, 0, 30 * _DAY)
    page, page_hosts = parse_page(inputs, problems), parse_page_hosts(inputs, problems)
    checks = _checks(inputs, problems, {} if router is None else router.sources)
    if router is not None and health is not None:
        health = _unclaimed(inputs, problems, router, health)
    beside = router is not None and stays(router) and not router.mode.redirects
    if beside and health is not None and not inputs.value(HEALTH):
        message = f"is not set, and {health} is the port of the proxy in the same pod"
        problems.error(HEALTH, None, "", message, "another one, such as 9912")
    if router is not None and router.pair is not None and router.pair.by_cluster:
        _judge_election(inputs, problems, router, router.pair)
        if health is None:
            message = "is off, and the peers are looked for by what answers there"
            problems.error(HEALTH, None, "off", f"{message} ({NETWORK}=cluster)", "a port that nothing else claims")
    elif router is not None and router.pair is not None and health is None:
        message = "without one no Service can tell which router of the pair is active"
        problems.warn("EGRESS_HEALTH_PORT", None, "", message, "a port that nothing else claims")
    if router is None or len(problems.errors) > before:
        return None
    return RunConfig(replace(router, health_port=health), grace, delay, announce, probe, checks, hold, page, page_hosts)


def _judge_election(inputs: Inputs, problems: Problems, router: RouterConfig, pair: PairConfig) -> None:
    """Note what keeps an election between the pods from taking place."""
    if not pair.peers and not inputs.value(PEERS):
        problems.error(PEERS, None, "", f"is not set, and {NETWORK} is cluster", EXPECTED_PEERS)
    if line := _claiming(router, Protocol.UDP, pair.port):
        problems.error(PORT, None, str(pair.port), f"is claimed by {line}", "a UDP port that nothing else claims")


def _unclaimed(inputs: Inputs, problems: Problems, router: RouterConfig, port: int) -> int | None:
    """Return ``port``, or None when a destination claims it."""
    return unclaimed_port(inputs, problems, port, _claiming(router, Protocol.TCP, port))


def _claiming(router: RouterConfig, protocol: Protocol, port: int) -> str:
    """Return the line that claims a port, empty when none does."""
    rule = next((r for r in router.rules.claims if r.protocol is protocol and port in r.ports), None)
    return f"line {rule.line} of EGRESS_DESTINATION ({rule})" if rule else ""


def _checks(inputs: Inputs, problems: Problems, sources: Mapping[Family, Interface]) -> tuple[Check, ...]:
    variable = "EGRESS_CHECK"
    text = inputs.value(variable) or ""
    found: list[Check] = []
    for word in text.replace(",", " ").split():
        host, _, port_text = word.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        address, port = fields.address(bare), fields.port(port_text)
        if isinstance(address, Invalid) or isinstance(port, Invalid) or (":" in bare and bare == host):
            problems.error(variable, None, word, "is not a destination", EXPECTED_CHECK)
        elif sources and family_of(address) not in sources:
            message = f"is {family_of(address)}, but EGRESS_SOURCE has no {family_of(address)} address"
            problems.error(variable, None, word, message, EXPECTED_CHECK)
        else:
            found.append(Check(address, port))
    return tuple(dict.fromkeys(found))
