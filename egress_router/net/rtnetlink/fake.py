"""A network namespace in memory that obeys RouteNetlink: for tests of the order of steps, without a kernel.

It refuses what the kernel refuses (contract tests run both): a route out of a link that is not up, a second link of a
name; and it forgets what the kernel forgets: with a link go its addresses, routes and neighbours, with a link that goes
down its routes and IPv6 addresses.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import replace

from egress_router.net.closing import Closing
from egress_router.net.netlink import NetlinkError
from egress_router.net.rtnetlink.values import (
    MAIN_TABLE,
    ForwardingEntry,
    Link,
    LinkAddress,
    Neighbour,
    Observed,
    PolicyRule,
    Route,
    Vxlan,
)


class FakeRtnetlink(Closing):
    """What a namespace holds; ``calls`` are the names of the methods that changed something, in order."""

    def __init__(self, links: Iterable[Link] = (), before: Callable[[str], object] = lambda _: None) -> None:
        """``before`` is called with the name of each change before it is made; it may raise, as a kernel may."""
        self._before = before
        self._links: dict[int, Link] = {link.index: link for link in links}
        self._addresses: dict[int, list[LinkAddress]] = {}
        self._routes: list[tuple[Route, int | None]] = []
        self._rules: list[PolicyRule] = []
        self._neighbours: dict[int, list[Neighbour | ForwardingEntry]] = {}
        self.parameters: dict[tuple[int, int], int] = {}
        self.calls: list[str] = []

    def close(self) -> None:
        """See RouteNetlink."""

    def _change(self, name: str) -> None:
        self._before(name)
        self.calls.append(name)

    def observe(self) -> Observed:
        """See RouteNetlink."""
        return Observed(self.links(), self.addresses(), self.routes(), self.rules())

    def links(self) -> tuple[Link, ...]:
        """See RouteNetlink."""
        return tuple(self._links.values())

    def link(self, name: str) -> Link | None:
        """See RouteNetlink."""
        return next((link for link in self._links.values() if link.name == name), None)

    def addresses(self, link: Link | None = None) -> tuple[LinkAddress, ...]:
        """See RouteNetlink."""
        indices = self._links if link is None else [link.index]
        return tuple(item for index in indices for item in self._addresses.get(index, ()))

    def routes(self, protocol: int | None = None) -> tuple[Route, ...]:
        """See RouteNetlink."""
        return tuple(route for route, _ in self._routes if protocol in (None, route.protocol))

    def default_routes(self) -> tuple[Route, ...]:
        """See RouteNetlink."""
        return tuple(route for route, _ in self._routes if route.is_default and route.table == MAIN_TABLE)

    def rules(self) -> tuple[PolicyRule, ...]:
        """See RouteNetlink."""
        return tuple(sorted(self._rules, key=lambda rule: (rule.family, rule.priority)))

    def neighbours(self, link: Link) -> frozenset[Neighbour]:
        """See RouteNetlink."""
        return frozenset(item for item in self._neighbours.get(link.index, ()) if isinstance(item, Neighbour))

    def forwarding(self, link: Link) -> frozenset[ForwardingEntry]:
        """See RouteNetlink."""
        return frozenset(item for item in self._neighbours.get(link.index, ()) if isinstance(item, ForwardingEntry))

    def add_address(self, link: Link, item: LinkAddress, *, replace: bool = False) -> None:
        """See RouteNetlink."""
        self._change("add_address")
        self._need(link, f"add {item}")
        present = self._addresses.setdefault(link.index, [])
        if item in present and not replace:
            return
        self._addresses[link.index] = [other for other in present if other != item] + [item]

    def remove_address(self, link: Link, item: LinkAddress) -> None:
        """See RouteNetlink."""
        self._change("remove_address")
        wanted = item.address
        present = self._addresses.get(link.index, [])
        self._addresses[link.index] = [other for other in present if other.address != wanted]

    def add_route(self, route: Route, index: int | None) -> None:
        """See RouteNetlink."""
        self._change("add_route")
        if index is not None:
            link = self._links.get(index)
            if link is None:
                raise NetlinkError(errno.ENODEV, "", f"add {route}")
            if not link.up:
                raise NetlinkError(errno.ENETDOWN, "", f"add {route}")
        self._routes = [(other, at) for other, at in self._routes if _key(other) != _key(route)]
        self._routes.append((route, index))

    def remove_route(self, route: Route, index: int | None) -> None:
        """See RouteNetlink."""
        self._change("remove_route")
        self._routes = [
            (other, at)
            for other, at in self._routes
            if (_key(other), at) != (_key(route), index) or _differ(other, route)
        ]

    def add_rule(self, rule: PolicyRule) -> None:
        """See RouteNetlink."""
        self._change("add_rule")
        if rule not in self._rules:
            self._rules.append(rule)

    def remove_rule(self, rule: PolicyRule) -> None:
        """See RouteNetlink."""
        self._change("remove_rule")
        self._rules = [other for other in self._rules if other != rule]

    def set_neighbour(self, link: Link, entry: Neighbour | ForwardingEntry) -> None:
        """See RouteNetlink."""
        self._change("set_neighbour")
        self._need(link, f"add {entry}")
        present = self._neighbours.get(link.index, [])
        self._neighbours[link.index] = [other for other in present if _place(other) != _place(entry)] + [entry]

    def remove_neighbour(self, link: Link, entry: Neighbour | ForwardingEntry) -> None:
        """See RouteNetlink."""
        self._change("remove_neighbour")
        present = self._neighbours.get(link.index, [])
        self._neighbours[link.index] = [other for other in present if _place(other) != _place(entry)]

    def create_vxlan(self, name: str, mac: str, mtu: int, vxlan: Vxlan) -> None:
        """See RouteNetlink."""
        self._change("create_vxlan")
        if self.link(name) is not None:
            raise NetlinkError(errno.EEXIST, "", f"create {name}")
        index = max(self._links, default=0) + 1
        self._links[index] = Link(index, name, "vxlan", mac, mtu, up=False, lower_up=False, vxlan=vxlan)

    def create_wireguard(self, name: str, mtu: int) -> None:
        """See RouteNetlink."""
        self._change("create_wireguard")
        if self.link(name) is not None:
            raise NetlinkError(errno.EEXIST, "", f"create {name}")
        index = max(self._links, default=0) + 1
        self._links[index] = Link(index, name, "wireguard", "", mtu, up=False, lower_up=False)

    def remove_link(self, link: Link) -> None:
        """See RouteNetlink."""
        self._change("remove_link")
        self._links.pop(link.index, None)
        self._addresses.pop(link.index, None)
        self._neighbours.pop(link.index, None)
        self._routes = [(route, at) for route, at in self._routes if at != link.index]

    def without_own_addresses(self, link: Link) -> None:
        """See RouteNetlink."""
        self._change("without_own_addresses")

    def set_up(self, link: Link) -> None:
        """See RouteNetlink."""
        self._change("set_up")
        self._need(link, f"set {link.name} up")
        self._links[link.index] = replace(self._links[link.index], up=True, lower_up=True)

    def set_down(self, link: Link) -> None:
        """Do what ``ip link set down`` does: routes, neighbours and IPv6 addresses go."""
        self._links[link.index] = replace(self._links[link.index], up=False, lower_up=False)
        self._addresses[link.index] = [item for item in self.addresses(link) if item.address.version == 4]
        self._routes = [(route, at) for route, at in self._routes if at != link.index]
        self._neighbours[link.index] = list(self.forwarding(link))

    def set_ipv4_parameter(self, link: Link, number: int, value: int) -> None:
        """See RouteNetlink."""
        self._change("set_ipv4_parameter")
        self._need(link, f"set parameter {number} of {link.name}")
        self.parameters[link.index, number] = value

    def _need(self, link: Link, doing: str) -> None:
        if link.index not in self._links:
            raise NetlinkError(errno.ENODEV, "", doing)


def _key(route: Route) -> object:
    """Return what a new route replaces another one by."""
    return route.family, route.table, route.destination, route.metric


def _differ(present: Route, wanted: Route) -> bool:
    """Return whether a route that is to be removed says something that the present one does not have."""
    return present.type != wanted.type or (wanted.gateway is not None and present.gateway != wanted.gateway)


def _place(entry: Neighbour | ForwardingEntry) -> object:
    """Return what the kernel tells entries apart by."""
    return entry.address if isinstance(entry, Neighbour) else (entry.mac, entry.destination)
