"""``egress-router plan``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from egress_router.cli.once import Verb
from egress_router.cli.output import print_pods
from egress_router.cli.sources import Source, read_pods, source_options
from egress_router.config.values import Family
from egress_router.dns_proxy.haproxy.config import render_haproxy
from egress_router.errors import UsageError
from egress_router.http_proxy.squid.config import SHOWN, render_squid
from egress_router.manifests.pod import PodConfig
from egress_router.net.nft.script import replace_script
from egress_router.policy.compile import compile_policy
from egress_router.redirect.desired import desired_here, desired_sample
from egress_router.redirect.iptables_rules import iptables_tables, iptables_text
from egress_router.redirect.nft_rules import nft_table
from egress_router.redirect.plan_text import plan_json, plan_text
from egress_router.redirect.values import Desired, FlowOffload, RouterConfig


@click.command(
    "plan",
    cls=Verb,
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
def command(env_file: str | None, manifests: tuple[str, ...], output: str, pod: str | None) -> int:
    """Print the desired state without touching anything; no privileges needed.

    `-o nft` and `-o iptables` print what `init` puts in place, byte for byte; `-o squid` and `-o haproxy` what the
    proxies are started with. `-o nft` has the flow table with EGRESS_FLOW_OFFLOAD=on; with auto the kernel decides.
    """
    plans: dict[str, Any] = {}
    for source, config in read_pods(env_file, manifests):
        here = (pod or ("here" if source.here else "sample")) == "here"
        plans[source.name] = RENDERERS[output](config, source, here)
    print_pods(plans)
    return 0


def _desired(pod: PodConfig, source: Source, here: bool) -> tuple[RouterConfig, Desired]:
    if pod.router is None:
        other = "; -o squid prints the HTTP proxy's configuration" if pod.http else ""
        raise UsageError(f"{source.name} has no variables of the router (EGRESS_GATEWAY …): nothing to plan{other}")
    return pod.router, desired_here(pod.router) if here else desired_sample(pod.router)


def _text(pod: PodConfig, source: Source, here: bool) -> str:
    router, desired = _desired(pod, source, here)
    return plan_text(desired, router)


def _json(pod: PodConfig, source: Source, here: bool) -> dict[str, Any]:
    router, desired = _desired(pod, source, here)
    return plan_json(desired, router)


def _nft(pod: PodConfig, source: Source, here: bool) -> str:
    _, desired = _desired(pod, source, here)
    return replace_script(nft_table(desired.translation, offload=desired.translation.offload is FlowOffload.ON))


def _iptables(pod: PodConfig, source: Source, here: bool) -> str:
    _, desired = _desired(pod, source, here)
    text = ""
    for family in Family:
        tool = "ip6tables" if family is Family.IPV6 else "iptables"
        text += f"# {family}: {tool}-restore --noflush\n" + iptables_text(iptables_tables(desired.translation, family))
    return text


def _squid(pod: PodConfig, source: Source, _here: bool) -> str:
    if pod.http is None:
        raise UsageError(f"{source.name} has no EGRESS_HTTP_PROXY_DESTINATION: no Squid to plan")
    files = render_squid(compile_policy(pod.http.policy), pod.http.settings, SHOWN)
    return "".join(f"# {name}\n{text}" for name, text in files.items())


def _haproxy(pod: PodConfig, source: Source, _here: bool) -> str:
    if pod.dns is None:
        raise UsageError(
            f"{source.name} has no EGRESS_DNS_PROXY_DESTINATION and no EGRESS_TLS_PROXY_DESTINATION: no HAProxy to plan"
        )
    return render_haproxy(pod.dns)


#: what ``-o`` names → text, or values for JSON
RENDERERS: dict[str, Callable[[PodConfig, Source, bool], str | dict[str, Any]]] = {
    "text": _text,
    "json": _json,
    "nft": _nft,
    "iptables": _iptables,
    "squid": _squid,
    "haproxy": _haproxy,
}
