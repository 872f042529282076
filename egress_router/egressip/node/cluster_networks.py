"""The networks of pods, services and nodes, as a person names them: they end up in nftables sets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import collapse_addresses

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.inputs import Problems
from egress_router.config.values import Network

EXPECTED = "prefixes of pods, services and nodes, such as 10.128.0.0/14 or 2001:db8:a::/48"


def cluster_networks(texts: Sequence[str], variable: str, problems: Problems) -> tuple[Network, ...]:
    """Return the networks that ``texts`` are; every problem is noted with ``variable``, the option or variable they
    come from. One inside of another one is fine.
    """
    found: dict[Network, None] = {}
    before = len(problems.errors)
    for word in texts:
        value = fields.network(word)
        if not isinstance(value, Invalid):
            value = _no_network_of_a_cluster(value) or value
        if isinstance(value, Invalid):
            problems.error(variable, None, word, value, EXPECTED)
        else:
            found[value] = None
    if not texts:
        message = "names no network; traffic between pods, services and nodes must be known to be left alone"
        problems.error(variable, None, "", message, EXPECTED)
    if len(problems.errors) == before:
        for version in (4, 6):
            own = [network for network in found if network.version == version]
            if any(network.prefixlen == 0 for network in collapse_addresses(own)):  # type: ignore[type-var]
                text = ", ".join(map(str, own))
                problems.error(variable, None, text, f"are every IPv{version} address together", EXPECTED)
    return tuple(found)


def _no_network_of_a_cluster(network: Network) -> Invalid | None:
    if network.prefixlen == 0:
        return Invalid(f'"{network}" is every address, so nothing would leave with an egress IP')
    kinds = (("multicast", network.is_multicast), ("loopback", network.is_loopback))
    kind = next((kind for kind, applies in kinds if applies), "")
    return Invalid(f'"{network}" is {kind}, which no pod, service or node has') if kind else None
