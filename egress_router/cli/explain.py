"""``egress-router explain``."""

from __future__ import annotations

import re

import click

from egress_router.cli.output import print_json
from egress_router.cli.sources import read_sources, source_options
from egress_router.config import fields
from egress_router.config.fields import Wrong
from egress_router.config.inputs import Problems
from egress_router.config.pod import PodConfig, parse_pod
from egress_router.errors import UsageError
from egress_router.model.router import Protocol, RouterConfig
from egress_router.plan.explain import Decision, explain_redirect

_PORT = re.compile(r"([0-9]+)(?:/([a-z]+))?", re.IGNORECASE)


@click.command(
    "explain",
    epilog="""
    \b
    Examples:
      egress-router explain 8080/tcp
      egress-router explain 53/udp -f router.yaml
    """,
)
@click.argument("target", metavar="PORT/PROTOCOL")
@source_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(target: str, env_file: str | None, manifest: str | None, output: str) -> int:
    """Tell which line decides about a connection, and where it goes."""
    problems = Problems()
    for source in read_sources(env_file, manifest, problems):
        pod = parse_pod(source.inputs, problems)
        rows = explain(pod, target)
        if output == "json":
            print_json([row for row, _ in rows])
        else:
            click.echo("\n".join(text for _, text in rows))
    return 0


def explain(pod: PodConfig, target: str) -> list[tuple[dict[str, object], str]]:
    """Return what decides about ``target``, as values and as text. Raises UsageError for a target that is none."""
    found = _PORT.fullmatch(target)
    port = fields.port(found[1]) if found else Wrong("")
    if found is None or isinstance(port, Wrong):
        raise UsageError(f'"{target}" is not PORT/PROTOCOL, such as 8080/tcp')
    if pod.router is None or not pod.router.mode.redirects:
        raise UsageError(
            "these variables are not those of a redirect router: there is no EGRESS_DESTINATION to explain"
        )
    names = [found[2].lower()] if found[2] else list(Protocol)
    if any(name not in list(Protocol) for name in names):
        raise UsageError(f'"{names[0]}" is not a protocol; one of {", ".join(Protocol)}')
    router = pod.router
    decisions = [
        explain_redirect(router.rules, family, Protocol(name), port)
        for family in sorted(router.sources)
        for name in names
    ]
    return [(_values(router, decision), _sentence(router, decision)) for decision in decisions]


def _values(router: RouterConfig, decision: Decision) -> dict[str, object]:
    return {
        "family": decision.family.value,
        "protocol": str(decision.protocol),
        "port": decision.port,
        "line": decision.rule.line if decision.rule else None,
        "rule": str(decision.rule) if decision.rule else None,
        "address": str(decision.address) if decision.address else None,
        "to_port": decision.to_port if decision.rule else None,
        "source": str(router.sources[decision.family].ip) if decision.rule else None,
    }


def _sentence(router: RouterConfig, decision: Decision) -> str:
    what = f"{decision.family} {decision.protocol} port {decision.port}"
    if decision.rule is None or decision.address is None:
        return f"{what}: no line claims it and there is no fallback: refused"
    to = f"[{decision.address}]" if decision.address.version == 6 else str(decision.address)
    source = router.sources[decision.family].ip
    gateway = router.gateways[decision.family]
    return (
        f'{what}: line {decision.rule.line} "{decision.rule}" sends it to {to}:{decision.to_port}, '
        f"leaving with {source} by {gateway}"
    )
