"""``egress-router check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from egress_router.cli.once import Verb
from egress_router.cli.output import print_json, print_warnings
from egress_router.cli.sources import Source, parse_sources, read_sources, source_options
from egress_router.config.inputs import Problems
from egress_router.config.mounts import warn_own_mounts
from egress_router.errors import ConfigurationError, Problem
from egress_router.manifests.pod import PodConfig
from egress_router.manifests.reach import reach_warnings
from egress_router.manifests.services import Services
from egress_router.policy.shadowed import shadow_warnings


@click.command(
    "check",
    cls=Verb,
    epilog="""
    \b
    Examples:
      egress-router check
      egress-router check -f router.yaml
    """,
)
@source_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(env_file: str | None, manifests: tuple[str, ...], output: str) -> int:
    """Validate every EGRESS_* variable that is set, whatever the mode. Touches nothing.

    All problems come out together, each with its variable, line and what would be right; exit code 78 then.
    """
    problems = Problems()
    summaries: list[str] = []
    try:
        sources = read_sources(env_file, manifests, problems, judge=True)
        for source in sources:
            if source.here:
                warn_own_mounts(source.inputs, problems)
        pods = parse_sources(sources, problems)
        summaries = [f"{source.name}: {summary(pod)}" for source, pod in pods]
        problems.warnings += _out_of_reach(pods)
        for _, pod in pods:
            problems.warnings += shadow_warnings(pod.http.policy) if pod.http is not None else []
            if pod.dns is not None and pod.dns.by_name is not None:
                problems.warnings += shadow_warnings(pod.dns.by_name.policy)
    except ConfigurationError as error:
        problems.errors += error.problems
    if output == "json":
        print_json(
            {
                "ok": not problems.errors,
                "problems": _AsValues(problems.errors),
                "warnings": _AsValues(problems.warnings),
            }
        )
        return ConfigurationError.exit_code if problems.errors else 0
    print_warnings(problems.warnings)
    problems.raise_if_any()
    click.echo("\n".join(summaries))
    return 0


def _out_of_reach(pods: Sequence[tuple[Source, PodConfig]]) -> list[Problem]:
    """Return the warnings of ports that Services and NetworkPolicies of the same files know nothing of."""
    objects = next((source.objects for source, _ in pods if source.objects is not None), None)
    if objects is None:
        return []
    services, policies = Services(objects), Services(objects, "NetworkPolicy")
    found = [
        problem
        for source, config in pods
        if source.pod is not None
        for problem in reach_warnings(source.pod, config, services, policies)
    ]
    return list(dict.fromkeys(found))


class _AsValues(list[Problem]):
    """Problems that become plain values one by one, as they are printed: a hundred thousand of them are large."""

    def __iter__(self) -> Iterator[Any]:
        return map(asdict, super().__iter__())


def summary(pod: PodConfig) -> str:
    """Say in a line what a valid configuration does."""
    parts = []
    if pod.router is not None:
        router = pod.router
        leaving = ", ".join(
            f"{source} by {router.gateways[family]}" for family, source in sorted(router.sources.items())
        )
        count = len(router.rules.all)
        rules = f", {count} redirect rule{'s' * (count != 1)}" if router.mode.redirects else ""
        parts.append(f"mode {router.mode}, leaving with {leaving}{rules}")
    if pod.http is not None:
        count = len(pod.http.policy.lines)
        parts.append(f"HTTP proxy on port {pod.http.settings.port}, {count} policy line{'s' * (count != 1)}")
    if pod.dns is not None:
        count = len(pod.dns.destinations)
        if count or pod.dns.by_name is None:
            parts.append(f"DNS proxy, {count} destination{'s' * (count != 1)}")
        if (by_name := pod.dns.by_name) is not None:
            count = len(by_name.policy.lines)
            ports = ", ".join(map(str, by_name.ports))
            parts.append(f"TLS by name on port {ports}, {count} policy line{'s' * (count != 1)}")
    return "; ".join([*parts, "ok"])
