"""Addresses, routes, policy rules and sysctls of an egress router.

Three lookups decide where a packet goes, and none of them depends on the CNI's prefixes:

- ``from POD-ADDRESS lookup CLUSTER_TABLE``: what the pod answers goes back the way it came;
- ``iif EGRESS lookup CLUSTER_TABLE``: replies from outside go back to the client, wherever in the cluster it is;
- ``iif CLUSTER lookup EGRESS_TABLE``: what is forwarded for a client leaves by the egress interface or not at all,
  whatever the main table says (the table ends in ``unreachable``);
- ``fwmark CLUSTER_MARK lookup CLUSTER_TABLE``: ICMP errors that the pod sends to a client whose packet it cannot
  forward. The kernel looks for their way before they have a source, so the first rule does not see them.

The main table's default route goes to the egress gateway too, for processes in the pod (a proxy).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from ipaddress import IPv6Network

from egress_router.config.values import ANY, Address, Family, HostName, Network, family_of, host_network
from egress_router.errors import PlatformError
from egress_router.net.rtnetlink.values import MAIN_TABLE, LinkAddress, Observed, PolicyRule, Route, Sysctl
from egress_router.records import replace
from egress_router.redirect.egress_link import CRI_INTERFACE
from egress_router.redirect.network_state import (
    ADVERT_SOURCES,
    CLUSTER_MARK,
    CLUSTER_TABLE,
    EGRESS_TABLE,
    PROTOCOL,
    RULE_PRIORITIES,
    NetworkState,
)
from egress_router.redirect.pair.values import LEASE_SECONDS, RELAY_INTERFACE
from egress_router.redirect.values import FlowOffload, Mode, RouterConfig, Ruleset, Translation

#: Behind every other route of EGRESS_TABLE; any large value does.
LAST_METRIC = 65535
#: IPv6 prefers the smaller metric and CNIs use 1024 (IP6_RT_PRIO_USER), so ours wins before theirs is removed.
DEFAULT_METRIC = {Family.IPV4: 0, Family.IPV6: 1}
PLAIN_METRIC = {Family.IPV4: 0, Family.IPV6: 1024}

_own = partial(Route, protocol=PROTOCOL)

_LINK_LOCAL = IPv6Network("fe80::/10")
_MULTICAST = IPv6Network("ff00::/8")

FORWARDING_FIX = (
    "/proc/sys is read-only here: run the container privileged, or have the pod set "
    "net.ipv6.conf.all.forwarding=1 (spec.securityContext.sysctls, an unsafe sysctl that the kubelet must allow)"
)

DISABLED_FIX = (
    "The container runtime has switched IPv6 off in this pod: run the container privileged, or have the network "
    "attachment switch it on (tuning plugin: net.ipv6.conf.IFNAME.disable_ipv6=0)"
)


def find_cluster_interface(observed: Observed, egress: str | None) -> str | None:
    """Return the interface towards the cluster, None when there is none: the one of CLUSTER_TABLE's copy, once we have
    moved the default route; else the container runtime's ``eth0`` if it carries a default route; else the interface of
    the best one, where IPv4 counts first. ``egress`` is never the answer.
    """
    copies = [r for r in _defaults(observed, egress) if r.table == CLUSTER_TABLE and r.protocol == PROTOCOL]
    if copies:
        return copies[0].interface
    foreign = sorted(_foreign_defaults(observed, egress), key=lambda route: (route.family, route.metric))
    names = [route.interface for route in foreign]
    if CRI_INTERFACE in names:
        return CRI_INTERFACE
    return names[0] if names else None


def _defaults(observed: Observed, egress: str | None) -> list[Route]:
    return [route for route in observed.routes if route.is_default and route.interface not in (None, egress)]


def _foreign_defaults(observed: Observed, egress: str | None) -> list[Route]:
    """Return the default routes that are not ours; nothing once ours are in place, and it is known which was which."""
    defaults = _defaults(observed, egress)
    if any(route.table == CLUSTER_TABLE and route.protocol == PROTOCOL for route in defaults):
        return []
    return [route for route in defaults if route.table == MAIN_TABLE and route.protocol != PROTOCOL]


def _rivals(observed: Observed, egress: str, cluster: str) -> list[str]:
    """Return the interfaces that could lead to the cluster as well as ``cluster``: in a family they carry a default
    route that is as good, or better, or the only one.
    """
    found: list[str] = []
    foreign = _foreign_defaults(observed, egress)
    for route in foreign:
        own = [item.metric for item in foreign if item.interface == cluster and item.family == route.family]
        name = route.interface
        if name and name not in (cluster, *found) and all(route.metric <= metric for metric in own):
            found.append(name)
    return found


def cluster_interface_warnings(observed: Observed, egress: str) -> list[str]:
    """Return what is unclear about which interface leads to the cluster, though one can be chosen."""
    cluster = find_cluster_interface(observed, egress)
    rivals = _rivals(observed, egress, cluster) if cluster else []
    if cluster != CRI_INTERFACE or not rivals:
        return []
    text = (
        f"{_carry(rivals)} a default route that is no worse than that of {CRI_INTERFACE}; {CRI_INTERFACE}, the pod "
        "network's, is taken for the interface to the cluster. Give the other network no default route (Multus: no "
        "`default-route`)"
    )
    return [text]


def _carry(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'carries' if len(names) == 1 else 'carry'}"


def plan_network(
    config: RouterConfig, observed: Observed, egress: str, nameservers: Iterable[Address] = ()
) -> NetworkState:
    """Return the desired state of the pod's network with ``egress`` as the egress interface.

    Raises PlatformError when no interface carries a default route (there is no way back to the cluster then).
    """
    cluster = find_cluster_interface(observed, egress)
    if cluster is None:
        raise PlatformError(
            f"no interface except {egress} carries a default route, so the cluster interface cannot be told; "
            "the pod network must keep its default route (Multus: no `default-route` on the egress network)"
        )
    rivals = _rivals(observed, egress, cluster)
    if rivals and cluster != CRI_INTERFACE:
        raise PlatformError(
            f"{' and '.join((cluster, *rivals))} carry default routes of which none is better, so the cluster "
            "interface cannot be told; give the other network no default route (Multus: no `default-route`), or a "
            "larger metric"
        )
    servers = tuple(nameservers)
    addresses: list[LinkAddress] = []
    routes: list[Route] = []
    rules: list[PolicyRule] = []
    pod_addresses: dict[Family, tuple[Address, ...]] = {}
    prefixes: dict[Family, tuple[Network, ...]] = {}
    for family in Family:
        pod_addresses[family] = tuple(
            item.address.ip
            for item in observed.addresses
            if item.interface == cluster and item.global_scope and family_of(item.address) == family
        )
        own = _cluster_routes(observed, cluster, family)
        # Also of a family without a source, whose default route stays: the pod may ask an IPv4 nameserver of the
        # cluster while it leaves with IPv6 alone.
        kept = _kept_on_cluster(config, servers, own, family)
        prefixes[family] = tuple(dict.fromkeys(r.destination for r in (*own, *kept) if not r.is_default))
        if family not in config.sources:
            continue
        lifetime = LEASE_SECONDS if config.pair is not None else None
        addresses.append(LinkAddress(egress, config.sources[family], lifetime=lifetime))
        routes += [*own, *_egress_routes(config, family, egress, EGRESS_TABLE), *kept]
        routes += _egress_routes(config, family, egress, MAIN_TABLE)
        rules += _policy_rules(family, pod_addresses[family], egress, cluster)
    if config.pair is not None and config.pair.address is None and not config.pair.by_cluster:
        # The reverse path filter, strict or loose, drops what comes from where no route leads to, and a standby has no
        # other one out of this interface.
        routes.append(_own(Family.IPV4, MAIN_TABLE, ADVERT_SOURCES, egress))
    families = set(config.sources)
    displaced = tuple(
        r
        for r in observed.routes
        if r.table == MAIN_TABLE and r.is_default and r.family in families and r not in routes
    )
    return NetworkState(
        egress=egress,
        cluster=cluster,
        pod_addresses=pod_addresses,
        cluster_prefixes=prefixes,
        addresses=tuple(addresses),
        routes=tuple(routes),
        rules=tuple(rules),
        sysctls=tuple(_sysctls(config, egress, cluster)),
        displaced=displaced,
        held=config.holds,
    )


def _cluster_routes(observed: Observed, cluster: str, family: Family) -> tuple[Route, ...]:
    """Copy the cluster interface's routes into CLUSTER_TABLE; routes without a gateway first, they carry the others.

    Default routes are taken from our own copy once we have moved them, or, after a kill, some of them.
    """
    foreign = [
        route
        for route in observed.routes
        if route.family == family
        and route.table == MAIN_TABLE
        and route.interface == cluster
        and route.protocol != PROTOCOL
        and not _is_link_local(route.destination)
    ]
    metrics = {route.metric for route in foreign if route.is_default}
    if not metrics or _moved(observed, family):
        # What we have taken away lives on in our copy; what stands there again is newer.
        foreign += [
            route
            for route in observed.routes
            if route.family == family
            and route.table == CLUSTER_TABLE
            and route.interface == cluster
            and route.is_default
            and route.metric not in metrics
        ]
    # Of equal-cost paths one is enough.
    copies: dict[tuple[Network, int], Route] = {}
    for route in foreign:
        copies.setdefault((route.destination, route.metric), replace(route, table=CLUSTER_TABLE, protocol=PROTOCOL))
    return tuple(sorted(copies.values(), key=lambda r: (r.gateway is not None, r.is_default)))


def _moved(observed: Observed, family: Family) -> bool:
    return any(
        route.family == family and route.table == MAIN_TABLE and route.is_default and route.protocol == PROTOCOL
        for route in observed.routes
    )


def _is_link_local(destination: Network) -> bool:
    return isinstance(destination, IPv6Network) and (
        destination.subnet_of(_LINK_LOCAL) or destination.subnet_of(_MULTICAST)
    )


def _kept_on_cluster(
    config: RouterConfig, nameservers: Iterable[Address], own: tuple[Route, ...], family: Family
) -> tuple[Route, ...]:
    """Routes of the main table for nameservers and EGRESS_CLUSTER_CIDRS, through the old gateway."""
    # The kernel's own choice, in whatever order they come: after a kill some are found in our copy, behind the others.
    default = min((route for route in own if route.is_default), key=lambda route: route.metric, default=None)
    if default is None:
        return ()
    connected = [route.destination for route in own if not route.is_default]
    wanted: list[Network] = [item for item in config.cluster_cidrs if family_of(item) == family]
    for server in nameservers:
        host = host_network(server)
        # A nameserver on the link, or at the egress gateway, is not behind the cluster's gateway.
        elsewhere = server.is_loopback or _is_link_local(host) or server == config.gateways.get(family)
        if family_of(server) == family and not elsewhere and not any(_covers(net, host) for net in connected):
            wanted.append(host)
    return tuple(
        replace(default, table=MAIN_TABLE, destination=item, metric=PLAIN_METRIC[family], protocol=PROTOCOL)
        for item in dict.fromkeys(wanted)
        if item not in connected
    )


def _covers(wide: Network, narrow: Network) -> bool:
    return wide.version == narrow.version and narrow.network_address in wide and wide.prefixlen <= narrow.prefixlen


def _egress_routes(config: RouterConfig, family: Family, egress: str, table: int) -> list[Route]:
    source, gateway = config.sources[family], config.gateways[family]
    metric = PLAIN_METRIC[family]
    routes = []
    if table == EGRESS_TABLE and source.network.prefixlen < family.bits:
        # The main table gets this one from the kernel, with the address.
        routes.append(_own(family, table, source.network, egress, source=source.ip, metric=metric))
    if not _is_link_local(host_network(gateway)):
        routes.append(_own(family, table, host_network(gateway), egress, source=source.ip, metric=metric))
    default = _own(family, table, ANY[family], egress, gateway, source.ip, DEFAULT_METRIC[family])
    routes.append(default)
    if config.pair is not None and family is Family.IPV6:
        # IPv4's go with their address.
        routes = [replace(route, lifetime=LEASE_SECONDS) for route in routes]
    if table == EGRESS_TABLE:
        routes.append(_own(family, table, ANY[family], None, metric=LAST_METRIC, type="unreachable"))
    return routes


def _policy_rules(family: Family, pod: tuple[Address, ...], egress: str, cluster: str) -> list[PolicyRule]:
    first, second, third, fourth = RULE_PRIORITIES[:4]
    rule = partial(PolicyRule, family, protocol=PROTOCOL)
    rules = [rule(first, CLUSTER_TABLE, source=host_network(item)) for item in pod]
    rules.append(rule(second, CLUSTER_TABLE, in_interface=egress))
    rules.append(rule(third, EGRESS_TABLE, in_interface=cluster))
    rules.append(rule(fourth, CLUSTER_TABLE, mark=CLUSTER_MARK))
    return rules


def _sysctls(config: RouterConfig, egress: str, cluster: str) -> Iterable[Sysctl]:
    """What must be switched on. See Documentation/networking/ip-sysctl.rst of the kernel."""
    if config.mode.redirects and Family.IPV4 in config.sources:
        # Of these two interfaces alone: a third one forwards nothing, and NET_ADMIN is enough (by netlink).
        for interface in (cluster, egress):
            yield Sysctl(f"net/ipv4/conf/{interface}/forwarding", 1)
    if config.mode.redirects and Family.IPV6 in config.sources:
        # IPv6 forwards as a whole or not at all.
        yield Sysctl("net/ipv6/conf/all/forwarding", 1, fix=FORWARDING_FIX)
    if Family.IPV6 in config.sources:
        # Runtimes switch IPv6 off in pods of clusters that have IPv4 alone, for interfaces to come as well.
        yield Sysctl(f"net/ipv6/conf/{egress}/disable_ipv6", 0, fix=DISABLED_FIX)
    if config.mode in (Mode.HTTP_PROXY, Mode.DNS_PROXY):
        # The proxies run as any user without capabilities and hand their listening sockets over at a reload.
        yield Sysctl("net/ipv4/ip_unprivileged_port_start", 0, required=False)
        # For handshakes that a reload overtakes. A pod cannot set it, and nobody can do anything about that.
        yield Sysctl("net/ipv4/tcp_migrate_req", 1, required=False, missed=False)
    if Family.IPV4 in config.sources:
        # An address of the cluster side is nobody's business on the egress side, and the other way round.
        yield Sysctl(f"net/ipv4/conf/{egress}/arp_ignore", 1, required=False)
        yield Sysctl(f"net/ipv4/conf/{egress}/arp_announce", 2, required=False)
    if config.pair is not None and config.pair.address is not None and not config.pair.by_cluster:
        # No route leads to a source of the others' choice.
        yield Sysctl(f"net/ipv4/conf/{egress}/rp_filter", 0, required=False)
    if Family.IPV6 in config.sources and not config.mode.redirects:
        # Router advertisements would give the interface addresses of its own, and a default route. Where IPv6 is
        # forwarded, the kernel takes none.
        yield Sysctl(f"net/ipv6/conf/{egress}/accept_ra", 0, required=False)
        yield Sysctl(f"net/ipv6/conf/{egress}/autoconf", 0, required=False)


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
        adverts=None if config.pair is None else config.pair.sources,
        adverts_by=RELAY_INTERFACE if config.pair is not None and config.pair.by_cluster else None,
        pair_port=config.pair.port if config.pair is not None and config.pair.by_cluster else None,
        holds=config.holds,
        offload=config.flow_offload if config.mode.redirects else FlowOffload.OFF,
    )


_KERNEL, _BOOT = 2, 3
