"""What the page of the DNS proxy shows and answers. See daemon/page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

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
from egress_router.dns_proxy.by_name.config import ByName
from egress_router.dns_proxy.destinations import Destination, DnsProxyConfig
from egress_router.dns_proxy.explain import explain_dns
from egress_router.dns_proxy.haproxy.engine import HaproxyEngine
from egress_router.dns_proxy.haproxy.log_pipe import OTHER, Traffic
from egress_router.dns_proxy.names import DnsProxyState
from egress_router.errors import quoted
from egress_router.policy.clients import asked_about
from egress_router.policy.evaluate import literal_address
from egress_router.policy.judge import Judge
from egress_router.policy.parse import asked_host
from egress_router.policy.values import Decision

KIND = "DNS proxy"


def counts(engine: HaproxyEngine) -> dict[str, int]:
    """Return the ended connections of each destination line, and what each line of TLS by name has decided."""
    found = {text: traffic.connections for text, traffic in engine.stats.read().items()}
    return found | dict(engine.stats.asked().lines)


def dns_view(engine: HaproxyEngine, counters: Counters, health: ProxyHealth, rates: Rates) -> RouterView:
    """Return what is in force now."""
    state, traffic, asked = engine.state(), engine.stats.read(), engine.stats.asked()
    config = state.config if state else DnsProxyConfig(())
    totals, by_port = rates.totals(), open_by_port()
    sources = ", ".join(str(source) for _, source in sorted(config.sources.items()))
    figures = [
        (sources or "not set here", "EGRESS_SOURCE"),
        (number(sum(by_port[port] for port in config.ports)), "open connections of clients"),
        (number(len(config.destinations)), "destinations"),
    ]
    if config.by_name:
        figures += [
            (number(asked.decisions["allow"]), "connections and requests by name allowed"),
            (number(asked.decisions["deny"]), "by name denied"),
        ]
    rows = [_row(item, state, traffic, totals, rates) for item in config.destinations] if state else []
    return RouterView(
        kind=KIND,
        made=time.time(),
        figures=figures,
        reasons=health.reasons(time.monotonic()),
        warnings=engine.warnings(),
        destinations=rows + (list(_by_name(config.by_name, totals, rates)) if config.by_name else []),
        parts=list(_parts(config, counters)),
        refusals=engine.refusals.read() if config.by_name else None,
        reloaded=engine.listed.at,
        change=engine.listed.change,
        refused=counters.last_error if counters.refused else "",
    )


def _row(
    item: Destination, state: DnsProxyState, traffic: Mapping[str, Traffic], totals: Mapping[str, int], rates: Rates
) -> DestinationRow:
    counted = traffic.get(item.way, Traffic())
    level, words, age = Level.FINE, "connected", None
    addresses: tuple[str, ...] = ()
    if item.name is not None:
        addresses = tuple(map(str, state.addresses.get(item.name, ())))
        answered = state.answered(item.name)
        age = None if answered is None else time.monotonic() - answered
        problem = state.problem(item.name)
        if not addresses:
            level, words = Level.CUT_OFF, f"no address: {problem}"
        elif problem:
            level, words = Level.DEGRADED, f"old answer: {problem}"
    if counted.unreached and level is Level.FINE:
        words = f"connected; {number(counted.unreached)} reached no server"
    return DestinationRow(
        item.line,
        str(item),
        level,
        words,
        addresses,
        age,
        count=totals.get(item.way, 0),
        size=counted.bytes,
        rates=rates.of(item.way),
    )


def _by_name(by_name: ByName, totals: Mapping[str, int], rates: Rates) -> Iterator[DestinationRow]:
    for line in by_name.policy.lines:
        yield DestinationRow(
            line.number,
            line.text,
            state=f"by name: {'allows' if line.decision is Decision.ALLOW else 'denies'}",
            count=counted(totals, line.text, OTHER),
            rates=rates.of(line.text),
        )


def _parts(config: DnsProxyConfig, counters: Counters) -> Iterator[PartRow]:
    yield engine_row("HAProxy", counters)
    for server in config.nameservers:
        yield PartRow(f"name server {server}", Level.FINE, "asked")


def ask_form(engine: HaproxyEngine, judge: Callable[[], Judge | None]) -> AskForm | None:
    """Return what can be asked: a port, or HOST:PORT where names are served; None before anything is in force. No name
    is looked up.
    """
    config = engine.in_force
    if config is None:
        return None
    example = "8080 or example.com:443" if config.by_name else "8080"
    clients = CLIENT if config.by_name and len(config.by_name.policy.sections) > 1 else ""
    return AskForm(example, clients, lambda target, client: ask(config, judge(), target, client))


def ask(config: DnsProxyConfig, judge: Judge | None, target: str, client: str = "") -> list[Reply]:
    """Return what happens to a connection to a port, or by name to HOST:PORT, for a client or for all that the policy
    tells apart.
    """
    host, colon, port_text = target.rpartition(":")
    port = fields.port(port_text.removesuffix("/tcp"))
    if isinstance(port, Invalid) or (colon and not host):
        return [Reply(None, f"{quoted(target)} is not PORT or HOST:PORT")]
    if not colon:
        explained = explain_dns(config, port)
        return [Reply(explained.destination is not None, str(explained))]
    if config.by_name is None or judge is None:
        return [Reply(False, "nothing is connected by name here: ask for a port alone")]
    if port not in config.by_name.ports:
        return [Reply(False, f"nothing listens for names on port {port}")]
    if literal_address(host) is not None:
        return [Reply(False, f"{quoted(host)} is an address, not a name")]
    return _asked_by_name(config.by_name, judge, host, port, client)


def _asked_by_name(by_name: ByName, judge: Judge, host: str, port: int, client: str) -> list[Reply]:
    try:
        name = asked_host(host).rstrip(".").lower()
    except ValueError as error:
        return [Reply(None, str(error))]
    who = fields.bare_address(client) if client else None
    if isinstance(who, Invalid):
        return [Reply(None, f"{quoted(client)} is not the address of a client")]

    def reply(group: tuple[str, Address]) -> Reply:
        words, one = group
        about = f"{name} port {port}{f', {words}' if words else ''}"
        if denied := judge.denied_by_name(one, name, port):
            return Reply(False, f"{about}: denied by {_why(denied.line, denied.why)}")
        (verdict,) = judge.judge(one, name, port, ())
        word = "allowed" if verdict.allowed else "denied"
        text = f"{about}: {word} by {_why(verdict.line, verdict.why)}, unless a line or a closed address says otherwise"
        return Reply(None, f"{text} about what it resolves to")

    return for_each(asked_about(by_name.policy, who), reply)


def _why(line: object, why: str) -> str:
    text = getattr(line, "text", "")
    return f'{why} "{text}"' if text else why
