"""What the page of the HTTP proxy shows and answers. See daemon/page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.values import Address
from egress_router.daemon.engine import Counters
from egress_router.daemon.page.level import Level
from egress_router.daemon.page.rates import Rates
from egress_router.daemon.page.view import (
    CLIENT,
    AskForm,
    DestinationRow,
    PartRow,
    Reply,
    RouterView,
    counted,
    engine_row,
    for_each,
    number,
)
from egress_router.daemon.proxy_health import ProxyHealth
from egress_router.daemon.sockets import open_by_port
from egress_router.errors import quoted
from egress_router.http_proxy.explain import explain_http
from egress_router.http_proxy.squid.access_log import OTHER
from egress_router.http_proxy.squid.engine import SquidConfiguration, SquidEngine
from egress_router.http_proxy.targets import parse_target
from egress_router.policy.clients import asked_about, for_client
from egress_router.policy.parse import asked_host
from egress_router.policy.values import Decision, Network

KIND = "HTTP proxy"
EXAMPLE = "http://free.fr/ or free.fr:443"


def http_view(engine: SquidEngine, counters: Counters, health: ProxyHealth, rates: Rates) -> RouterView:
    """Return what is in force now."""
    totals, counts = rates.totals(), engine.stats.read()
    in_force = engine.in_force
    lines = in_force.policy.lines if in_force else ()
    clients = open_by_port()[engine.settings.port]
    return RouterView(
        kind=KIND,
        made=time.time(),
        figures=(
            (number(counts.decisions["allow"]), "requests allowed"),
            (number(counts.decisions["deny"]), "requests denied"),
            (number(sum(counts.errors.values())), "requests that were allowed and failed"),
            (number(clients), "open connections of clients"),
            (number(len(lines)), "lines"),
        ),
        reasons=health.reasons(time.monotonic()),
        counted="requests",
        destinations=[
            DestinationRow(
                line.number,
                line.text,
                state="allows" if line.decision is Decision.ALLOW else "denies",
                count=counted(totals, line.text, OTHER),
                rates=rates.of(line.text),
            )
            for line in lines
        ],
        parts=list(_parts(engine, counters, in_force)),
        refusals=engine.refusals.read(),
        reloaded=engine.listed.at,
        change=engine.listed.change,
        refused=counters.last_error if counters.refused else "",
    )


def _parts(engine: SquidEngine, counters: Counters, in_force: SquidConfiguration | None) -> Iterator[PartRow]:
    yield engine_row(f"Squid on port {engine.settings.port}", counters)
    if in_force and in_force.parent:
        yield PartRow("parent proxy", Level.FINE, "requests go on to it")


def ask_form(
    engine: SquidEngine, own: Callable[[], Iterable[Address]], cluster: Callable[[], Iterable[Network]]
) -> AskForm | None:
    """Return what can be asked: a URL or HOST:PORT, by the policy in force; None before there is one. No name is looked
    up. ``own`` and ``cluster`` as the engine has them.
    """
    in_force = engine.in_force
    if in_force is None:
        return None
    clients = CLIENT if len(in_force.policy.sections) > 1 else ""
    return AskForm(
        EXAMPLE, clients, lambda target, client: ask(in_force, engine, target, client, tuple(own()), tuple(cluster()))
    )


def ask(
    in_force: SquidConfiguration,
    engine: SquidEngine,
    target: str,
    client: str,
    own: tuple[Address, ...],
    cluster: tuple[Network, ...],
) -> list[Reply]:
    """Return what happens to a request, for a client or for all that the policy tells apart."""
    try:
        asked = parse_target(target)
        asked = replace(asked, host=asked_host(asked.host))
    except ValueError as error:
        return [Reply(None, str(error))]
    policy = in_force.policy
    who = fields.bare_address(client) if client else None
    if isinstance(who, Invalid):
        return [Reply(None, f"{quoted(client)} is not the address of a client")]
    # Its file may have changed since the start.
    settings = replace(engine.settings, parent=in_force.parent)

    def reply(group: tuple[str, Address]) -> Reply:
        words, one = group
        explained = explain_http(for_client(policy, one), asked, settings=settings, own=own, cluster=cluster)
        text = f"{asked.host} port {asked.port}{f', {words}' if words else ''}: {explained.text}"
        return Reply(None if explained.depends else explained.allowed, text)

    return for_each(asked_about(policy, who), reply)
