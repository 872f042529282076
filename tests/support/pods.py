"""Pods as a CNI leaves them, for tests of the plan."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import strategies as st

from egress_router.config.values import ANY, Family
from egress_router.net.rtnetlink.values import MAIN_TABLE, Link, LinkAddress, Observed, PolicyRule, Route
from egress_router.redirect.network_state import CLUSTER_TABLE, EGRESS_TABLE, PROTOCOL, RULE_PRIORITIES
from egress_router.redirect.values import Mode, RouterConfig
from tests.redirect.unit.kernel_routes import key

IPV4, IPV6 = Family.IPV4, Family.IPV6
CLUSTER, EGRESS, OTHER = "eth0", "macvlan0", "net1"
BOOT = 3  # rtm_protocol of what a CNI sets

LINKS = (
    Link(1, "lo", "", "00:00:00:00:00:00", 65536, up=True, lower_up=True),
    Link(2, CLUSTER, "veth", "0a:58:0a:80:00:05", 1450, up=True, lower_up=True),
    Link(3, EGRESS, "macvlan", "02:00:00:00:00:46", 1500, up=False, lower_up=False),
    Link(4, OTHER, "veth", "0a:58:0a:80:00:06", 1500, up=True, lower_up=True),
)


def route(family: Family, destination: str, interface: str | None, gateway: str | None = None, **more: object) -> Route:
    """A route that a CNI sets, in the main table unless said otherwise."""
    values: dict[str, object] = {"table": MAIN_TABLE, "protocol": BOOT, **more}
    network = ANY[family] if destination == "default" else ip_network(destination)
    return Route(
        family=family,
        destination=network,
        interface=interface,
        gateway=ip_address(gateway) if gateway else None,
        **values,  # type: ignore[arg-type]
    )


ADDRESSES = (
    LinkAddress("lo", ip_interface("127.0.0.1/8"), global_scope=False),
    LinkAddress(CLUSTER, ip_interface("10.128.0.5/23")),
    LinkAddress(CLUSTER, ip_interface("2001:db8:c::5/64")),
    LinkAddress(CLUSTER, ip_interface("fe80::858:aff:fe80:5/64"), global_scope=False),
)
#: The usual shape: a connected prefix and a gateway in it.
BRIDGED = Observed(
    LINKS,
    ADDRESSES,
    (
        route(IPV4, "10.128.0.0/23", CLUSTER, protocol=2, source=ip_address("10.128.0.5")),
        route(IPV4, "default", CLUSTER, "10.128.0.1"),
        route(IPV6, "2001:db8:c::/64", CLUSTER, protocol=2, metric=256),
        route(IPV6, "fe80::/64", CLUSTER, protocol=2, metric=256),
        route(IPV6, "ff00::/8", CLUSTER, protocol=2, metric=256),
        route(IPV6, "default", CLUSTER, "2001:db8:c::1", metric=1024),
    ),
)
#: Point to point: nothing is connected but the gateway.
ROUTED = Observed(
    LINKS,
    (
        LinkAddress(CLUSTER, ip_interface("10.128.0.5/32")),
        LinkAddress(CLUSTER, ip_interface("2001:db8:c::5/128")),
    ),
    (
        route(IPV4, "169.254.1.1/32", CLUSTER),
        route(IPV4, "default", CLUSTER, "169.254.1.1"),
        route(IPV6, "2001:db8:c::5/128", CLUSTER, protocol=2, metric=256),
        route(IPV6, "default", CLUSTER, "fe80::1", metric=1024),
    ),
)

SOURCES = {IPV4: ip_interface("192.0.2.46/24"), IPV6: ip_interface("2001:db8:2::46/64")}
GATEWAYS = {IPV4: ip_address("192.0.2.1"), IPV6: ip_address("2001:db8:2::1")}


def config(*families: Family, mode: Mode = Mode.INIT, **more: object) -> RouterConfig:
    """A router with the sources of ``families``, both when none is given."""
    wanted = families or tuple(Family)
    values: dict[str, object] = {
        "sources": {family: SOURCES[family] for family in wanted},
        "gateways": {family: GATEWAYS[family] for family in wanted},
        **more,
    }
    return RouterConfig(mode=mode, **values)  # type: ignore[arg-type]


PREFIXES = {
    IPV4: ["10.0.0.0/8", "10.128.0.0/14", "172.30.0.0/16", "203.0.113.0/24", "192.0.2.0/25", "198.51.100.7/32"],
    IPV6: ["2001:db8::/32", "2001:db8:c::/48", "2001:db8:113::/64", "2001:db8:2::/65", "2001:db8:9::7/128"],
}
HOPS = {IPV4: ["10.128.0.1", "10.128.0.9", None], IPV6: ["2001:db8:c::1", "fe80::1", None]}
METRICS = st.sampled_from([0, 1, 100, 1024, 65535])
FAMILIES = st.sampled_from([(IPV4,), (IPV6,), (IPV4, IPV6)])


@st.composite
def foreign_routes(draw: st.DrawFn) -> Route:
    """A route of others: of the main table or one of theirs, of any interface, default routes too."""
    family = draw(st.sampled_from(list(Family)))
    return route(
        family,
        draw(st.sampled_from([*PREFIXES[family], *["default"] * 4])),
        draw(st.sampled_from([CLUSTER, CLUSTER, OTHER, EGRESS])),
        draw(st.sampled_from(HOPS[family])),
        metric=draw(METRICS),
        table=draw(st.sampled_from([MAIN_TABLE, MAIN_TABLE, 100])),
        protocol=draw(st.sampled_from([2, BOOT, 4, 186])),
        mtu=draw(st.sampled_from([None, 1400])),
    )


@st.composite
def leftover_routes(draw: st.DrawFn) -> Route:
    """A route in our tables, or of our protocol in the main one, as an older configuration may have left it."""
    family = draw(st.sampled_from(list(Family)))
    table = draw(st.sampled_from([MAIN_TABLE, EGRESS_TABLE, CLUSTER_TABLE]))
    return Route(
        family,
        table,
        ip_network(draw(st.sampled_from(PREFIXES[family]))),
        CLUSTER if table == CLUSTER_TABLE else draw(st.sampled_from([EGRESS, OTHER])),
        metric=draw(METRICS),
        protocol=PROTOCOL,
    )


@st.composite
def pods(draw: st.DrawFn) -> Observed:
    """A pod in one of the two shapes, with routes and rules of others and leftovers of ours."""
    base = draw(st.sampled_from([BRIDGED, ROUTED]))
    extra = draw(st.lists(st.one_of(foreign_routes(), leftover_routes()), max_size=8))
    routes = {key(item): item for item in (*extra, *base.routes)}
    rules = [PolicyRule(family, 0, 255) for family in Family] + [PolicyRule(family, 32766, 254) for family in Family]
    for _ in range(draw(st.integers(0, 3))):
        family = draw(st.sampled_from(list(Family)))
        priority = draw(st.sampled_from([100, RULE_PRIORITIES[0], RULE_PRIORITIES[2], RULE_PRIORITIES[-1], 20000]))
        name = draw(st.sampled_from([None, CLUSTER, EGRESS]))
        rules.append(
            PolicyRule(
                family, priority, draw(st.sampled_from([100, EGRESS_TABLE])), in_interface=name, protocol=PROTOCOL
            )
        )
    return Observed(base.links, base.addresses, tuple(routes.values()), tuple(dict.fromkeys(rules)))


NAMESERVERS = st.lists(
    st.sampled_from(
        ["10.96.0.10", "10.128.0.9", "2001:db8:96::a", "fe80::53", "127.0.0.53", "::1", "192.0.2.1", "2001:db8:2::1"]
    ).map(ip_address),
    max_size=3,
)
CIDRS = st.lists(st.sampled_from([*PREFIXES[IPV4], *PREFIXES[IPV6]]).map(ip_network), max_size=3, unique=True)
