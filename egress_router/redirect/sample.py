"""A pod to plan for where none is at hand: one interface, a default route, both families."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from egress_router.config.values import ANY, Family
from egress_router.net.rtnetlink.values import MAIN_TABLE, Link, LinkAddress, Observed, Route
from egress_router.redirect.plan import _BOOT, _KERNEL

SAMPLE_POD = Observed(
    links=(
        Link(1, "lo", "", "00:00:00:00:00:00", 65536, up=True, lower_up=True),
        Link(2, "eth0", "veth", "0a:58:0a:80:00:0a", 1450, up=True, lower_up=True),
        Link(3, "macvlan0", "macvlan", "d6:76:cc:f4:e3:d9", 1500, up=False, lower_up=False),
    ),
    addresses=(
        LinkAddress("eth0", ip_interface("10.128.0.10/23")),
        LinkAddress("eth0", ip_interface("2001:db8:80::10/64")),
    ),
    routes=(
        Route(Family.IPV4, MAIN_TABLE, ANY[Family.IPV4], "eth0", ip_address("10.128.0.1"), protocol=_BOOT),
        Route(
            Family.IPV4,
            MAIN_TABLE,
            ip_network("10.128.0.0/23"),
            "eth0",
            source=ip_address("10.128.0.10"),
            protocol=_KERNEL,
        ),
        Route(
            Family.IPV6, MAIN_TABLE, ANY[Family.IPV6], "eth0", ip_address("2001:db8:80::1"), metric=1024, protocol=_BOOT
        ),
        Route(Family.IPV6, MAIN_TABLE, ip_network("2001:db8:80::/64"), "eth0", metric=256, protocol=_KERNEL),
    ),
)
SAMPLE_NAMESERVERS = (ip_address("10.96.0.10"),)
