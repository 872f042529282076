"""The translation that belongs to a configuration and the planned network."""

from __future__ import annotations

from collections.abc import Mapping

from egress_router.model.addresses import Address
from egress_router.model.names import HostName
from egress_router.model.network import NetworkState
from egress_router.model.router import RouterConfig, Ruleset
from egress_router.model.translation import Translation


def plan_translation(
    config: RouterConfig, network: NetworkState, answers: Mapping[HostName, tuple[Address, ...]] | None
) -> Translation:
    """Return what the NAT backend must do; the proxy modes forward nothing. ``answers``: see Translation."""
    return Translation(
        egress=network.egress,
        cluster=network.cluster,
        pod_addresses=network.pod_addresses,
        sources={family: source.ip for family, source in config.sources.items()},
        rules=config.rules if config.mode.redirects else Ruleset(),
        cluster_prefixes=network.cluster_prefixes,
        health_port=config.health_port,
        answers=answers,
    )
