"""Devices that replies from other nodes come by, and their reverse path filter. See ip-sysctl (rp_filter).

A holder translates a reply back and sends it to the pod as the container network does: by an overlay, where there is
one. There the reply has the source of a machine outside, which this node reaches by its outside interface, so a strict
filter drops it. IPv6 has no such parameter.
"""

from __future__ import annotations

from collections.abc import Iterable

from egress_router.config.values import Network
from egress_router.egressip.node.state import TUNNEL
from egress_router.net.rtnetlink.kernel import RouteNetlink
from egress_router.net.rtnetlink.values import Link, LinkAddress, Route, Sysctl
from egress_router.net.sysctl import read_sysctl, set_sysctl

_STRICT, _LOOSE = 1, 2
#: Kinds of devices with an address among those of the node's pods, the likeliest first.
_OF_PODS = ("bridge", "vxlan", "ipip", "wireguard", "geneve", "openvswitch")
#: Kinds of devices that lead to other nodes without a next hop.
_TUNNELS = frozenset({"vxlan", "geneve", "gre", "gretap", "ipip", "sit", "wireguard", "ip6tnl"})


def overlay_links(
    routes: Iterable[Route], links: Iterable[Link], cluster: Iterable[Network], outside: str
) -> tuple[Link, ...]:
    """Return the devices besides the ``outside`` one that lead to IPv4 networks of the cluster on other nodes: by a
    next hop, or by a tunnel. The links of this node's own pods are not among them. Pure.
    """
    by_name = {link.name: link for link in links}
    inside = [network for network in cluster if network.version == 4]
    found: dict[str, Link] = {}
    for route in routes:
        link = by_name.get(route.interface or "")
        if link is None or link.name in (outside, TUNNEL) or route.destination.version != 4:
            continue
        leads_away = route.gateway is not None or link.kind in _TUNNELS
        if leads_away and any(route.destination.subnet_of(network) for network in inside):
            found[link.name] = link
    return tuple(found[name] for name in sorted(found))


def address_among_pods(
    addresses: Iterable[LinkAddress], links: Iterable[Link], cluster: Iterable[Network], outside: str, host_ip: str
) -> str:
    """Return an address of the node that is on a device of the container network, of the IP version of ``host_ip``;
    empty when there is none. Pure. What others keep on dummy devices (addresses of services) is not meant.
    """
    kinds = {link.name: link.kind for link in links if link.up and link.name not in (outside, TUNNEL)}
    version = 6 if ":" in host_ip else 4
    inside = [network for network in cluster if network.version == version]
    found = [
        (_OF_PODS.index(kinds[item.interface]), item.interface, str(item.address.ip))
        for item in addresses
        if item.address.version == version
        and item.global_scope
        and not item.tentative
        and kinds.get(item.interface) in _OF_PODS
        and any(item.address.ip in network for network in inside)
    ]
    return min(found)[2] if found else ""


def loosen(kernel: RouteNetlink, links: Iterable[Link]) -> tuple[list[str], list[str]]:
    """Have no device of ``links`` drop what comes from machines outside; return what was done about it, and what cannot
    be done, a line each.
    """
    done: list[str] = []
    problems: list[str] = []
    everywhere = read_sysctl(_rp_filter("all", 0)) or 0
    for link in links:
        own = read_sysctl(_rp_filter(link.name, 0))
        if own is None or max(own, everywhere) != _STRICT:
            continue
        wrong = set_sysctl(_rp_filter(link.name, _LOOSE), kernel, link)
        if wrong is None:
            done.append(f"rp_filter of {link.name} was strict and is loose now: replies from egress IPs come by it")
        else:
            problems.append(f"replies from egress IPs on other nodes are dropped: {wrong}")
    return done, problems


def _rp_filter(interface: str, value: int) -> Sysctl:
    return Sysctl(f"net/ipv4/conf/{interface}/rp_filter", value, required=False)
