"""All variables of a pod at once: the router's, and each proxy's that is set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from egress_router.config.inputs import DNS_PROXY, HTTP_PROXY, KNOWN, Inputs, Problems, warn_unknown
from egress_router.config.run_dir import parse_run_dir
from egress_router.config.settings import parse_log
from egress_router.dns_proxy.by_name.config import VARIABLE as BY_NAME
from egress_router.dns_proxy.destinations import DnsProxyConfig, parse_dns_proxy
from egress_router.errors import ConfigurationError
from egress_router.http_proxy.config import LONGEST_RUN_DIR, parse_http_settings
from egress_router.http_proxy.settings import HttpSettings
from egress_router.manifests.containers import Container, ManifestPod, Role
from egress_router.policy.parse import VARIABLE as POLICY
from egress_router.policy.parse import parse_policy
from egress_router.policy.values import Policy
from egress_router.redirect.config import parse_router
from egress_router.redirect.run_config import parse_staying, stays
from egress_router.redirect.values import Mode, RouterConfig

T = TypeVar("T")

_NOT_THE_PROXIES = KNOWN - {*HTTP_PROXY, *DNS_PROXY}
_ROUTER_ONLY = ("EGRESS_GATEWAY", "EGRESS_ROUTER_MODE", "EGRESS_DESTINATION", "EGRESS_DESTINATION_FILE")


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The HTTP proxy: its policy and its other settings."""

    policy: Policy
    settings: HttpSettings


@dataclass(frozen=True, slots=True)
class PodConfig:
    """What the variables of a pod's containers say together; None for a part that they do not mention."""

    router: RouterConfig | None
    http: HttpConfig | None = None
    dns: DnsProxyConfig | None = None


def parse_pod(inputs: Inputs, problems: Problems) -> PodConfig:
    """Check every EGRESS_* variable that is set, whatever the mode. Raises ConfigurationError with all problems.

    EGRESS_SOURCE beside nothing but a proxy's variables is a proxy container's, so no gateway is asked for.
    """
    # An empty policy is one that allows nothing, and a mistake; an empty value of another variable is none.
    http_set = POLICY in inputs.env or any(inputs.value(name) for name in HTTP_PROXY)
    dns_set = BY_NAME in inputs.env or any(inputs.value(name) for name in DNS_PROXY)
    parse_log(inputs, problems, terminal=True)
    router = http = dns = None
    if any(inputs.value(name) for name in _ROUTER_ONLY) or not (http_set or dns_set):
        router = parse_router(inputs, problems)
        # With a proxy's mode and a pair it may be an init container, or the one beside the proxy, which has a port.
        beside = router is not None and stays(router) and bool(inputs.value("EGRESS_HEALTH_PORT"))
        if router is None or router.mode is Mode.LEGACY or beside:
            staying = parse_staying(inputs, problems, router)
            router = None if staying is None else staying.router
    if not (http_set or dns_set or inputs.value("EGRESS_PAIR")):
        parse_run_dir(inputs, problems, LONGEST_RUN_DIR)
    if http_set:
        http = _parse_part(problems, lambda own: _http(inputs, own))
    if dns_set:
        dns = _parse_part(problems, lambda own: parse_dns_proxy(inputs, own, required=True))
    warn_unknown(inputs, problems)
    if problems.errors:
        raise ConfigurationError(problems.errors)
    return PodConfig(router, http, dns)


def parse_manifest_pod(pod: ManifestPod, problems: Problems) -> PodConfig:
    """Check the variables of a manifest's pod, those of each container by what it does. Raises ConfigurationError with
    all problems, each once.
    """
    found = Problems()
    router: RouterConfig | None = None
    http: HttpConfig | None = None
    dns: DnsProxyConfig | None = None
    # The init container decides; what `run` has besides must be right as well.
    for container in sorted(pod.ours, key=lambda one: Role.INIT not in one.roles):
        own = Problems()
        inputs = container.inputs()
        parse_log(inputs, own, terminal=True)
        if container.roles & {Role.INIT, Role.RUN}:
            parsed = _router(container.inputs(_NOT_THE_PROXIES), own, container)
            router = router or parsed
        if Role.HTTP in container.roles:
            http = _parse_part(own, lambda mine, values=inputs: _http(values, mine)) or http  # type: ignore[misc]
        if Role.DNS in container.roles:
            dns = (
                _parse_part(own, lambda mine, values=inputs: parse_dns_proxy(values, mine, required=True))  # type: ignore[misc]
                or dns
            )
        warn_unknown(inputs, own)
        found.errors += own.errors
        found.warnings += own.warnings
    problems.errors += dict.fromkeys(found.errors)
    problems.warnings += dict.fromkeys(found.warnings)
    if problems.errors:
        raise ConfigurationError(problems.errors)
    return PodConfig(router, http, dns)


def _router(inputs: Inputs, problems: Problems, container: Container) -> RouterConfig | None:
    if Role.INIT in container.roles and container.mode != "legacy":
        return parse_router(inputs, problems)
    router = parse_router(inputs, problems)
    if router is None or stays(router):
        staying = parse_staying(inputs, problems, router)
        return None if staying is None else staying.router
    return router


def _http(inputs: Inputs, problems: Problems) -> HttpConfig | None:
    settings = parse_http_settings(inputs, problems)
    policy = parse_policy(inputs, problems, required=True)
    return None if policy is None else HttpConfig(policy, settings)


def _parse_part(problems: Problems, parse: Callable[[Problems], T]) -> T:
    """Parse one part; of a variable that several parts read (EGRESS_SOURCE) only the first complaint is kept."""
    own = Problems()
    result = parse(own)
    known = {problem.variable for problem in problems.errors}
    problems.errors += [problem for problem in own.errors if problem.variable not in known]
    problems.warnings += own.warnings
    return result
