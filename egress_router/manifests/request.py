"""Sources, gateway and destinations of ``manifests`` and ``migrate`` as the routers themselves will read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from egress_router.config.inputs import Inputs, Problems, SourceText
from egress_router.errors import ConfigurationError, Problem
from egress_router.manifests.pod import PodConfig, parse_pod
from egress_router.manifests.values import Component, ManifestRequest
from egress_router.redirect.values import Mode

_OPTIONS = {
    "EGRESS_SOURCE": "--source",
    "EGRESS_GATEWAY": "--gateway",
    "EGRESS_HTTP_PROXY_PORT": "--http-port",
    "EGRESS_PAIR": "--pair",
    "EGRESS_PAIR_NETWORK": "--pair-network",
    "EGRESS_PAIR_PEERS": "--pair-network",
}


def complete_request(
    request: ManifestRequest,
    sources: Sequence[str],
    gateway: str,
    destinations: SourceText,
    problems: Problems,
    http_port: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> ManifestRequest | None:
    """Return ``request`` with what the texts say, one router for each of ``sources``; None when something is wrong.
    ``settings`` are further variables to judge.

    Problems name the options that the texts came from, and each stands once.
    """
    text = SourceText(destinations.variable, tidy(destinations.text))
    found = Problems()
    if http_port is not None and request.component is not Component.HTTP_PROXY:
        found.error("--http-port", None, http_port, "is for the HTTP proxy alone", "leave it out")
        http_port = None
    more = dict(settings or {})
    if http_port is not None:
        more["EGRESS_HTTP_PROXY_PORT"] = http_port
    pods = [_parse(request.component, source, gateway, text, more, found) for source in sources]
    problems.errors += dict.fromkeys(found.errors)
    problems.warnings += dict.fromkeys(found.warnings)
    routers = [pod.router for pod in pods if pod is not None and pod.router is not None]
    first = pods[0] if pods else None
    if found.errors or first is None or not routers:
        return None
    return replace(
        request,
        sources=tuple(router.sources for router in routers),
        gateways=routers[0].gateways,
        destinations=text.text,
        rules=routers[0].rules if request.component is Component.REDIRECT else None,
        http_port=first.http.settings.port if first.http else None,
        dns=first.dns,
        pair=None if routers[0].pair is None else routers[0].pair.number,
        pair_port=None if routers[0].pair is None or not routers[0].pair.by_cluster else routers[0].pair.port,
    )


def tidy(text: str) -> str:
    """Return a list with plain line ends and no white space behind the lines; line numbers stay."""
    lines = text.removeprefix("\ufeff").split("\n")
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _parse(
    component: Component,
    source: str,
    gateway: str,
    text: SourceText,
    settings: Mapping[str, str],
    problems: Problems,
) -> PodConfig | None:
    variable = component.destination_variable + "_FILE"
    env = {
        # The list of a redirect router is what the container that stays reads.
        "EGRESS_ROUTER_MODE": str(Mode.LEGACY if component is Component.REDIRECT else component.mode),
        "EGRESS_SOURCE": source,
        "EGRESS_GATEWAY": gateway,
        variable: text.variable,
        **settings,
    }
    found = Problems()
    try:
        pod = parse_pod(Inputs(env, {variable: text}), found)
    except ConfigurationError as error:
        problems.errors += map(_as_option, error.problems)
        return None
    problems.warnings += map(_as_option, found.warnings)
    return pod


def _as_option(problem: Problem) -> Problem:
    return replace(problem, variable=_OPTIONS.get(problem.variable, problem.variable))
