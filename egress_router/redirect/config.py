"""The variables of the redirect router and of every init container: one function, all problems together."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Network
from typing import TypeVar

from egress_router.config import fields
from egress_router.config.fields import Invalid
from egress_router.config.inputs import Inputs, Problems
from egress_router.config.settings import (
    EXPECTED_SOURCE,
    on_off,
    seconds,
)
from egress_router.config.values import Address, Family, Interface, Network, family_of, host_network
from egress_router.net.rtnetlink.values import MacvlanMode
from egress_router.redirect.destinations import parse_rules
from egress_router.redirect.pair.config import NETWORK as PAIR_NETWORK
from egress_router.redirect.pair.config import VARIABLE as PAIR
from egress_router.redirect.pair.config import parse_pair
from egress_router.redirect.values import Backend, FlowOffload, Mode, RouterConfig

#: Seconds. A pod that is deleted is replaced at once, and has its address until it has ended: with what `manifests`
#: writes at most 45 s later (terminationGracePeriodSeconds). Less than the startup probe's 60 s.
DAD_WAIT = 50
#: Seconds. The kubelet's back-off begins anew after ten minutes without an end (MaxContainerBackOff, twice).
LIST_WAIT = 900
HANDOVER = "EGRESS_HANDOVER"
_HOUR = 3600

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def parse_router(inputs: Inputs, problems: Problems) -> RouterConfig | None:
    """Return the configuration of the router, None when something is wrong (every problem is noted)."""
    before = len(problems.errors)
    mode = _choice(inputs, problems, "EGRESS_ROUTER_MODE", Mode, Mode.LEGACY)
    sources = _sources(inputs, problems)
    gateways = _gateways(inputs, problems, sources)
    mode_known = not _has_errors(problems, "EGRESS_ROUTER_MODE")
    sources_known = sources if not _has_errors(problems, "EGRESS_SOURCE") else {}
    # With a mode that is none, a name is not what is wrong.
    names = mode is Mode.LEGACY or not mode_known
    rules = parse_rules(inputs, sources_known, problems, required=mode.redirects and mode_known, names=names)
    pair = parse_pair(inputs, problems, sources_known)
    backend = _choice(inputs, problems, "EGRESS_NAT_BACKEND", Backend, Backend.AUTO)
    config = RouterConfig(
        mode=mode,
        sources=sources,
        gateways=gateways,
        rules=rules,
        backend=backend,
        flow_offload=_flow_offload(inputs, problems, backend, paired=pair is not None),
        interface=_interface(inputs, problems, "EGRESS_INTERFACE"),
        parent_interface=_interface(inputs, problems, "EGRESS_PARENT_INTERFACE"),
        host_netns=_path(inputs, problems, "EGRESS_HOST_NETNS"),
        macvlan_mode=_choice(inputs, problems, "EGRESS_MACVLAN_MODE", MacvlanMode, MacvlanMode.BRIDGE),
        cluster_cidrs=_cluster_cidrs(inputs, problems, sources, gateways),
        dad=on_off(inputs, problems, "EGRESS_DAD", default=True),
        dad_wait=float(seconds(inputs, problems, "EGRESS_DAD_WAIT", DAD_WAIT, 0, _HOUR)),
        pair=pair,
        handover=_handover(inputs, problems, mode if mode_known else None),
    )
    if pair is not None and pair.by_cluster and not config.dad:
        # What is not heard by the cluster's network is seen there alone.
        message = "needs duplicate address detection on the egress network, and EGRESS_DAD is off"
        problems.error(PAIR_NETWORK, None, "cluster", message, "no EGRESS_DAD=off, or egress here")
    list_wait(inputs, problems)
    _refuse_host_addresses(inputs, problems, sources)
    if not mode.redirects:
        if rules.all:
            problems.warn("EGRESS_DESTINATION", None, "", f"is not used with EGRESS_ROUTER_MODE={mode}")
        if config.flow_offload is FlowOffload.ON:
            problems.warn("EGRESS_FLOW_OFFLOAD", None, "on", f"is not used with EGRESS_ROUTER_MODE={mode}")
    return config if len(problems.errors) == before else None


def _flow_offload(inputs: Inputs, problems: Problems, backend: Backend, *, paired: bool) -> FlowOffload:
    """Read EGRESS_FLOW_OFFLOAD; what cannot be with ``backend`` is noted."""
    wanted = _choice(inputs, problems, "EGRESS_FLOW_OFFLOAD", FlowOffload, FlowOffload.AUTO)
    if wanted is FlowOffload.ON and backend is Backend.IPTABLES:
        message = "needs the flow tables of nftables, and EGRESS_NAT_BACKEND is iptables"
        problems.error("EGRESS_FLOW_OFFLOAD", None, "on", message, "EGRESS_NAT_BACKEND=nftables, or auto here")
    if wanted is FlowOffload.AUTO and paired:
        # Kernels before Linux 5.19 may look once a second only whether a route is gone, and a standby sends nothing.
        return FlowOffload.OFF
    return wanted


def _handover(inputs: Inputs, problems: Problems, mode: Mode | None) -> int:
    """Read EGRESS_HANDOVER. It needs a router that hears who asks for its address, and a successor that asks."""
    found = int(seconds(inputs, problems, HANDOVER, 0, 0, _HOUR))
    if not found:
        return 0
    text = inputs.value(HANDOVER) or ""
    if mode is not None and not mode.redirects:
        message = f"is for a redirect router, not for EGRESS_ROUTER_MODE={mode}"
        problems.error(HANDOVER, None, text, message, "leave it out")
    if inputs.value(PAIR) is not None:
        problems.error(HANDOVER, None, text, f"is for a router without {PAIR}", "one of the two")
    if not on_off(inputs, Problems(), "EGRESS_DAD", default=True):
        message = "needs EGRESS_DAD=on: two routers would have the address at once"
        problems.error(HANDOVER, None, text, message, "leave it out, or EGRESS_DAD=on")
    return found


def list_wait(inputs: Inputs, problems: Problems) -> float:
    """Read EGRESS_LIST_WAIT: for how many seconds ``init`` waits until a file whose list is refused changes."""
    return float(seconds(inputs, problems, "EGRESS_LIST_WAIT", LIST_WAIT, 0, 24 * _HOUR))


def _refuse_host_addresses(inputs: Inputs, problems: Problems, sources: dict[Family, Interface]) -> None:
    """Note an EGRESS_SOURCE that the node itself has: a macvlan never hears its parent, so no probe would tell."""
    text = inputs.value("EGRESS_HOST_IPS") or ""
    for word in _words(text):
        value = fields.address(word)
        if isinstance(value, Invalid):
            problems.error("EGRESS_HOST_IPS", None, text, value, "the field status.hostIPs of the pod")
        elif any(source.ip == value for source in sources.values()):
            message = "is the address of the node that the pod runs on (EGRESS_HOST_IPS)"
            problems.error("EGRESS_SOURCE", None, str(value), message, "an address that no machine has")


def _has_errors(problems: Problems, variable: str) -> bool:
    return any(problem.variable == variable for problem in problems.errors)


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _per_family(
    inputs: Inputs,
    problems: Problems,
    variable: str,
    read: Callable[[str], tuple[Family, T] | Invalid],
    expected: str,
) -> dict[Family, T]:
    text = inputs.value(variable)
    if text is None or not _words(text):
        problems.error(variable, None, text or "", "is not set" if text is None else "has no address", expected)
        return {}
    found: dict[Family, T] = {}
    for word in _words(text):
        value = read(word)
        if isinstance(value, Invalid):
            problems.error(variable, None, text, value, expected)
            continue
        family, address = value
        if family in found:
            problems.error(variable, None, text, f"has two {family} addresses", "one of each family")
        found[family] = address
    return found


def _sources(inputs: Inputs, problems: Problems) -> dict[Family, Interface]:
    def read(word: str) -> tuple[Family, Interface] | Invalid:
        value = fields.interface_address(word)
        if isinstance(value, Invalid):
            return value
        return _unusable_source(value) or (family_of(value), value)

    return _per_family(inputs, problems, "EGRESS_SOURCE", read, EXPECTED_SOURCE)


def _unusable_source(value: Interface) -> Invalid | None:
    ip, network = value.ip, value.network
    kind = fields.not_a_host(ip)
    if kind:
        return Invalid(f'"{ip}" cannot be a source: it is {kind}')
    if ip.version == 6 and ip.is_link_local:
        return Invalid(f'"{ip}" cannot be a source: it is link-local')
    return _network_or_broadcast(ip, network)


def _network_or_broadcast(ip: Address, network: Network) -> Invalid | None:
    if isinstance(network, IPv4Network) and network.prefixlen < 31:
        if ip == network.network_address:
            return Invalid(f'"{ip}" is the address of the network {network}, not of a host')
        if ip == network.broadcast_address:
            return Invalid(f'"{ip}" is the broadcast address of {network}')
    return None


def _gateways(inputs: Inputs, problems: Problems, sources: dict[Family, Interface]) -> dict[Family, Address]:
    def read(word: str) -> tuple[Family, Address] | Invalid:
        value = fields.address(word)
        if isinstance(value, Invalid):
            return value
        kind = fields.not_a_host(value)
        if kind:
            return Invalid(f'"{value}" cannot be a gateway: it is {kind}')
        source = sources.get(family_of(value))
        if source is not None and source.ip == value:
            return Invalid(f'"{value}" is EGRESS_SOURCE itself')
        return (source and _network_or_broadcast(value, source.network)) or (family_of(value), value)

    name = "EGRESS_GATEWAY"
    expected = "an address such as 192.0.2.1, one per family of EGRESS_SOURCE"
    gateways = _per_family(inputs, problems, name, read, expected)
    text = inputs.value(name) or ""
    if not _has_errors(problems, name):
        for family in sources.keys() - gateways.keys():
            problems.error(name, None, text, f"has no {family} address, but EGRESS_SOURCE has one", expected)
    if not _has_errors(problems, "EGRESS_SOURCE"):
        for family in gateways.keys() - sources.keys():
            problems.error(name, None, text, f"has an {family} address, but EGRESS_SOURCE has none", expected)
    for family, source in sources.items():
        gateway = gateways.get(family)
        alone = source.network.prefixlen == family.bits
        if gateway is not None and not alone and gateway not in source.network and not gateway.is_link_local:
            problems.warn(name, None, str(gateway), f"is outside of EGRESS_SOURCE's network {source.network}")
    return gateways


def _cluster_cidrs(
    inputs: Inputs, problems: Problems, sources: dict[Family, Interface], gateways: dict[Family, Address]
) -> tuple[Network, ...]:
    text = inputs.value("EGRESS_CLUSTER_CIDRS")
    egress_side = [source.network for source in sources.values()] + [host_network(item) for item in gateways.values()]
    found: list[Network] = []
    for word in _words(text or ""):
        value = fields.network(word)
        if isinstance(value, Invalid):
            problems.error("EGRESS_CLUSTER_CIDRS", None, text or "", value, "prefixes such as 10.128.0.0/14")
        elif value.prefixlen == 0:
            message = f'"{value}" is everything'
            problems.error("EGRESS_CLUSTER_CIDRS", None, text or "", message, "the cluster's prefixes")
        elif value in egress_side:
            message = f'"{value}" is on the egress side, by EGRESS_SOURCE or EGRESS_GATEWAY'
            problems.error("EGRESS_CLUSTER_CIDRS", None, text or "", message, "the cluster's prefixes")
        elif value not in found:
            found.append(value)
    return tuple(found)


def _choice(inputs: Inputs, problems: Problems, variable: str, kind: type[E], default: E) -> E:
    text = inputs.value(variable)
    if text is None:
        return default
    try:
        return kind(text.lower())
    except ValueError:
        problems.error(variable, None, text, "is not known", f"one of {', '.join(kind)}")
        return default


def _interface(inputs: Inputs, problems: Problems, variable: str) -> str | None:
    text = inputs.value(variable)
    if text is None:
        return None
    name = fields.interface_name(text)
    if isinstance(name, Invalid):
        problems.error(variable, None, text, name, "1 to 15 letters, digits and _ . - @")
        return None
    return name


def _path(inputs: Inputs, problems: Problems, variable: str) -> str | None:
    text = inputs.value(variable)
    if text is not None and not text.startswith("/"):
        problems.error(variable, None, text, "is not an absolute path", "such as /proc/1/ns/net")
    return text
