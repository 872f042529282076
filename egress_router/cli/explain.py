"""``egress-router explain``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import click

from egress_router.cli.once import Verb
from egress_router.cli.output import print_pods
from egress_router.cli.sources import read_pods_in_force, source_options
from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.values import Address, NameServer, Protocol
from egress_router.dns_proxy.by_name.config import VARIABLE as BY_NAME
from egress_router.dns_proxy.by_name.config import ByName
from egress_router.dns_proxy.explain import explain_dns
from egress_router.errors import UsageError, quoted
from egress_router.http_proxy.explain import Explanation, explain_http
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.targets import Target, parse_target
from egress_router.manifests.pod import PodConfig
from egress_router.policy.clients import asked_about, for_client
from egress_router.policy.evaluate import literal_address
from egress_router.policy.parse import asked_host
from egress_router.policy.values import Policy
from egress_router.redirect.explain import Decision, explain_redirect, sentence
from egress_router.redirect.values import RouterConfig

_PORT = re.compile(r"([0-9]+)(?:/([a-z]+))?", re.IGNORECASE)


@click.command(
    "explain",
    cls=Verb,
    epilog="""
    \b
    Examples:
      egress-router explain 8080/tcp
      egress-router explain 53/udp -f router.yaml
      egress-router explain http://free.fr/
      egress-router explain free.fr:443
      egress-router explain free.fr:443 --client 10.1.2.3
    """,
)
@click.argument("target", metavar="TARGET")
@source_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--live",
    is_flag=True,
    help="Ask the name servers too, and judge every address. Run it in the pod: its name servers and routes count.",
)
@click.option(
    "--client",
    metavar="ADDRESS",
    help="Who asks, where the policy has sections for clients. Without it, all that they tell apart are told of.",
)
def command(
    target: str, env_file: str | None, manifests: tuple[str, ...], output: str, live: bool, client: str | None
) -> int:
    """Tell which line decides about a connection, and where it goes.

    TARGET is PORT/PROTOCOL or PORT for the redirect and the DNS proxy router, a URL or HOST:PORT (a CONNECT) for the
    HTTP proxy and for TLS by name. Without --live no name is looked up.
    """
    who = _client(client)
    pods = read_pods_in_force(env_file, manifests)
    found = {source.name: explain(pod, target, live=live, client=who) for source, pod in pods}
    if output == "json":
        print_pods({name: [row for row, _ in rows] for name, rows in found.items()})
    else:
        print_pods({name: "".join(f"{text}\n" for _, text in rows) for name, rows in found.items()})
    return 0


Row = tuple[dict[str, object], str]


def _client(text: str | None) -> Address | None:
    if text is None:
        return None
    address = fields.bare_address(text)
    if isinstance(address, Invalid):
        raise UsageError(f"--client {address}")
    return address


def explain(pod: PodConfig, target: str, *, live: bool = False, client: Address | None = None) -> list[Row]:
    """Return what decides about ``target``, as values and as text, for a ``client`` or for all that the policy tells
    apart; with ``live`` also what the name servers say now, and what that leads to. Raises UsageError for a target that
    is none.
    """
    found = _PORT.fullmatch(target)
    if found is None:
        return _host(pod, target, live=live, client=client)
    port = fields.port(found[1])
    if isinstance(port, Invalid):
        raise UsageError(f"{quoted(target)}: {port} ({fields.EXPECTED_PORT})")
    protocol = (found[2] or "").lower()
    if pod.dns is not None and protocol in ("", "tcp"):
        explanation = explain_dns(pod.dns, port)
        name = explanation.destination.name if explanation.destination else None
        if not live or name is None:
            return [(explanation.values(), str(explanation))]
        from egress_router.cli.explain_live import live_dns

        values, text = live_dns(pod.dns, name)
        return [(explanation.values() | {"live": values}, f"{explanation}\n{text}")]
    return _redirect(pod, port, protocol)


def _host(pod: PodConfig, target: str, *, live: bool, client: Address | None) -> list[Row]:
    by_name = pod.dns.by_name if pod.dns else None
    if pod.http is None and by_name is None:
        raise UsageError(
            f"these variables have no EGRESS_HTTP_PROXY_DESTINATION and no {BY_NAME} to explain a host with"
        )
    try:
        asked = parse_target(target)
        asked = replace(asked, host=asked_host(asked.host))
    except ValueError as error:
        raise UsageError(f"{error}, or PORT/PROTOCOL such as 8080/tcp") from None
    rows: list[Row] = []
    if pod.http is not None:
        http = pod.http
        for words, one in asked_about(http.policy, client):
            policy = for_client(http.policy, one)
            explanation = explain_http(policy, asked, settings=http.settings)
            ask = live and _is_asked(asked) and not http.settings.parent
            rows.append(_row(asked, words, explanation, _live(policy, asked, http.settings) if ask else None))
    if pod.dns is not None and by_name is not None:
        # Squid's manager is none of it.
        asked = replace(asked, manager=False)
        settings = HttpSettings(sources=tuple(pod.dns.sources.values()))
        for words, one in asked_about(by_name.policy, client):
            policy = for_client(by_name.policy, one)
            refused = _refused_by_name(by_name, asked)
            explanation = refused or explain_http(policy, asked, settings=settings)
            ask = live and not refused
            found = _live(policy, asked, settings, pod.dns.nameservers) if ask else None
            rows.append(_row(asked, f"by name{', ' + words if words else ''}", explanation, found))
    return rows


def _is_asked(asked: Target) -> bool:
    return literal_address(asked.host) is None and not asked.invalid


def _live(
    policy: Policy, asked: Target, settings: HttpSettings, nameservers: Sequence[NameServer] = ()
) -> tuple[dict[str, object], str]:
    # Imported only then: dnspython costs 0.15 s.
    from egress_router.cli.explain_live import live_http

    return live_http(policy, asked, settings, nameservers)


def _refused_by_name(by_name: ByName, asked: Target) -> Explanation | None:
    """Return why a connection is refused whatever the policy says; None when that decides."""
    ports, kind = (by_name.tls_ports, "TLS") if asked.connect else (by_name.http_ports, "HTTP")
    if asked.invalid:
        why = asked.invalid
    elif literal_address(asked.host) is not None:
        why = "an address, not a name"
    elif asked.port not in ports:
        why = f"nothing listens for {kind} on port {asked.port}"
    else:
        return None
    return Explanation(False, None, f"denied: {why}")


def _row(asked: Target, words: str, explanation: Explanation, live: tuple[dict[str, object], str] | None) -> Row:
    row: dict[str, object] = {
        "host": asked.host,
        "port": asked.port,
        "decision": "allowed" if explanation.allowed else "denied",
        "line": explanation.line.number if explanation.line else None,
        "why": explanation.text,
        "depends_on_dns": explanation.depends,
    }
    by_name = words.startswith("by name")
    if by_name:
        row["by_name"] = True
    if clients := words.removeprefix("by name").removeprefix(", ").removeprefix("for "):
        row["clients"] = clients
    text = f"{asked.host} port {asked.port}{f', {words}' if words else ''}: {explanation.text}"
    if live:
        values, more = live
        return row | {"live": values}, f"{text}\n{more}"
    return row, text


def _redirect(pod: PodConfig, port: int, protocol: str) -> list[Row]:
    if pod.router is None or not pod.router.mode.redirects:
        raise UsageError("these variables have no EGRESS_DESTINATION to explain a port with")
    if protocol and protocol not in list(Protocol):
        raise UsageError(f"{quoted(protocol)} is not a protocol; one of {', '.join(Protocol)}")
    router = pod.router
    decisions = [
        explain_redirect(router.rules, family, Protocol(name), port)
        for family in sorted(router.sources)
        for name in ([protocol] if protocol else list(Protocol))
    ]
    return [(_values(router, decision), sentence(router, decision)) for decision in decisions]


def _values(router: RouterConfig, decision: Decision) -> dict[str, object]:
    return {
        "family": decision.family.value,
        "protocol": str(decision.protocol),
        "port": decision.port,
        "line": decision.rule.line if decision.rule else None,
        "rule": str(decision.rule) if decision.rule else None,
        "address": str(decision.address) if decision.address else None,
        "name": str(decision.name) if decision.name else None,
        "to_port": decision.to_port if decision.rule else None,
        "source": str(router.sources[decision.family].ip) if decision.rule else None,
    }
