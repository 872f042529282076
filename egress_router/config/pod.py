"""All variables of a pod at once: the router's, and each proxy's that is set."""

from __future__ import annotations

from dataclasses import dataclass

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.known import DNS_PROXY, HTTP_PROXY, warn_unknown
from egress_router.config.log import parse_log
from egress_router.config.router import parse_router
from egress_router.errors import ConfigurationError
from egress_router.model.router import RouterConfig

_ROUTER_ONLY = ("EGRESS_GATEWAY", "EGRESS_ROUTER_MODE", "EGRESS_DESTINATION", "EGRESS_DESTINATION_FILE")


@dataclass(frozen=True, slots=True)
class PodConfig:
    """What the variables of a pod's containers say together; None for a part that they do not mention."""

    router: RouterConfig | None


def parse_pod(inputs: Inputs, problems: Problems) -> PodConfig:
    """Check every EGRESS_* variable that is set, whatever the mode. Raises ConfigurationError with all problems.

    EGRESS_SOURCE beside nothing but a proxy's variables is a proxy container's, so no gateway is asked for.
    """
    parse_log(inputs, problems, terminal=True)
    proxies = any(inputs.value(name) for name in HTTP_PROXY + DNS_PROXY)
    router = None
    if any(inputs.value(name) for name in _ROUTER_ONLY) or not proxies:
        router = parse_router(inputs, problems)
    warn_unknown(inputs, problems)
    if problems.errors:
        raise ConfigurationError(problems.errors)
    return PodConfig(router)
