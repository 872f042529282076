"""``egress-router plan``."""

from __future__ import annotations

from collections.abc import Callable

import click

from egress_router.cli.output import print_json, print_warnings
from egress_router.cli.sources import Source, read_sources, source_options
from egress_router.config.inputs import Problems
from egress_router.config.pod import PodConfig, parse_pod
from egress_router.errors import UsageError
from egress_router.model.addresses import Family
from egress_router.model.desired import Desired
from egress_router.model.router import RouterConfig
from egress_router.plan.http_compile import compile_policy
from egress_router.render.haproxy import render_haproxy
from egress_router.render.iptables_script import iptables_text
from egress_router.render.iptables_tables import iptables_tables
from egress_router.render.nft_script import replace_script
from egress_router.render.nft_table import nft_table
from egress_router.render.plan_text import plan_json, plan_text
from egress_router.render.squid import render_squid
from egress_router.runtime.desired import desired_here, desired_sample


@click.command(
    "plan",
    epilog="""
    \b
    Examples:
      egress-router plan
      egress-router plan -o nft
      egress-router plan --pod sample -f router.yaml -o json
    """,
)
@source_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "nft", "iptables", "squid", "haproxy"]),
    default="text",
    show_default=True,
)
@click.option(
    "--pod",
    type=click.Choice(["here", "sample"]),
    help="Plan for the network that this process is in, or for a sample pod (eth0 with 10.128.0.10). "
    "Default: here, and sample with --env-file and -f.",
)
def command(env_file: str | None, manifest: str | None, output: str, pod: str | None) -> int:
    """Print the desired state without touching anything; no privileges needed.

    `-o nft` and `-o iptables` print what `init` puts in place, byte for byte; `-o squid` and `-o haproxy` what the
    proxies are started with.
    """
    problems = Problems()
    for source in read_sources(env_file, manifest, problems):
        config = parse_pod(source.inputs, problems)
        print_warnings(problems.warnings)
        PRINTERS[output](config, source, (pod or ("here" if source.here else "sample")) == "here")
    return 0


def _desired(pod: PodConfig, source: Source, here: bool) -> tuple[RouterConfig, Desired]:
    if pod.router is None:
        raise UsageError(f"{source.name} has no variables of the router (EGRESS_GATEWAY …): nothing to plan")
    return pod.router, desired_here(pod.router) if here else desired_sample(pod.router)


def _text(pod: PodConfig, source: Source, here: bool) -> None:
    click.echo(plan_text(*_parts(pod, source, here)), nl=False)


def _json(pod: PodConfig, source: Source, here: bool) -> None:
    print_json(plan_json(*_parts(pod, source, here)))


def _parts(pod: PodConfig, source: Source, here: bool) -> tuple[Desired, RouterConfig]:
    router, desired = _desired(pod, source, here)
    return desired, router


def _nft(pod: PodConfig, source: Source, here: bool) -> None:
    _, desired = _desired(pod, source, here)
    click.echo(replace_script(nft_table(desired.translation)), nl=False)


def _iptables(pod: PodConfig, source: Source, here: bool) -> None:
    _, desired = _desired(pod, source, here)
    for family in Family:
        tables = iptables_tables(desired.translation, family)
        click.echo(f"# {family}: {'ip6tables' if family is Family.IPV6 else 'iptables'}-restore --noflush")
        click.echo(iptables_text(tables), nl=False)


def _squid(pod: PodConfig, source: Source, _here: bool) -> None:
    if pod.http is None:
        raise UsageError(f"{source.name} has no EGRESS_HTTP_PROXY_DESTINATION: no Squid to plan")
    files = render_squid(compile_policy(pod.http.policy), pod.http.settings)
    for name, text in files.items():
        click.echo(f"# {name}\n{text}", nl=False)


def _haproxy(pod: PodConfig, source: Source, _here: bool) -> None:
    if pod.dns is None:
        raise UsageError(f"{source.name} has no EGRESS_DNS_PROXY_DESTINATION: no HAProxy to plan")
    click.echo(render_haproxy(pod.dns), nl=False)


PRINTERS: dict[str, Callable[[PodConfig, Source, bool], None]] = {
    "text": _text,
    "json": _json,
    "nft": _nft,
    "iptables": _iptables,
    "squid": _squid,
    "haproxy": _haproxy,
}
