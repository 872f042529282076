"""Read and change links, addresses, routes, policy rules, neighbours and forwarding entries of a network namespace.

``RouteNetlink`` is what users of this package see; ``Rtnetlink`` is the kernel's, ``fake.FakeRtnetlink`` one in memory
that passes the same contract tests.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

from egress_router.config.values import Address, Family
from egress_router.errors import PlatformError, TryAgainError
from egress_router.net.closing import Closing
from egress_router.net.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    encoded,
    ifaddrmsg,
)
from egress_router.net.rtnetlink import messages
from egress_router.net.rtnetlink.values import (
    MAIN_TABLE,
    ForwardingEntry,
    Link,
    LinkAddress,
    MacvlanMode,
    Neighbour,
    Observed,
    PolicyRule,
    Route,
    Vxlan,
)

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_IFLA_AF_SPEC, _IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE = 26, 1, 8
_ADDR_GEN_MODE_NONE = 1
_LOCAL_TABLE = 255
#: Where rtm_dst_len and rtm_table stand, behind netlink's head.
_LENGTH_AT, _TABLE_AT = 17, 20
#: Where ifi_index stands, and where the attributes of a link begin.
_INDEX_AT, _LINK_ATTRIBUTES_AT = 20, 32
_IFLA_IFNAME = 3
_CARRIER_SECONDS = 3.0
_GONE = (errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENODEV)


class RouteNetlink(Protocol):
    """Reads and changes one network namespace. Every method raises EgressRouterErrors only, NetlinkError where the
    kernel refuses. What is added and is there already, and what is removed and is gone already, is no error.
    """

    def close(self) -> None:
        """Let go of the namespace."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def observe(self) -> Observed:
        """Return links, addresses, routes of all tables but ``local``, and policy rules."""

    def links(self) -> tuple[Link, ...]:
        """Return all links."""

    def link(self, name: str) -> Link | None:
        """Return the link of that name, None when there is none; costs the same however many there are."""

    def addresses(self, link: Link | None = None) -> tuple[LinkAddress, ...]:
        """Return all addresses, or those of one link, which costs the same however many there are."""

    def routes(self, protocol: int | None = None) -> tuple[Route, ...]:
        """Return the routes of all tables but ``local``, or those of one protocol, which costs less."""

    def default_routes(self) -> tuple[Route, ...]:
        """Return the default routes of the main table; costs little however many routes there are."""

    def rules(self) -> tuple[PolicyRule, ...]:
        """Return the policy rules."""

    def neighbours(self, link: Link) -> frozenset[Neighbour]:
        """Return the permanent neighbour entries of a link."""

    def forwarding(self, link: Link) -> frozenset[ForwardingEntry]:
        """Return the permanent forwarding entries of a VXLAN."""

    def add_address(self, link: Link, item: LinkAddress, *, replace: bool = False) -> None:
        """Add an address without the kernel's own duplicate address detection; ``replace`` changes one that exists."""

    def remove_address(self, link: Link, item: LinkAddress) -> None:
        """Remove an address."""

    def add_route(self, route: Route, index: int | None) -> None:
        """Add a route out of the interface ``index``, or replace the one with the same destination and metric."""

    def remove_route(self, route: Route, index: int | None) -> None:
        """Remove a route."""

    def add_rule(self, rule: PolicyRule) -> None:
        """Add a policy rule."""

    def remove_rule(self, rule: PolicyRule) -> None:
        """Remove a policy rule."""

    def set_neighbour(self, link: Link, entry: Neighbour | ForwardingEntry) -> None:
        """Add a permanent entry, or replace the one of the same address (forwarding: of the same MAC)."""

    def remove_neighbour(self, link: Link, entry: Neighbour | ForwardingEntry) -> None:
        """Remove a permanent entry."""

    def create_vxlan(self, name: str, mac: str, mtu: int, vxlan: Vxlan) -> None:
        """Make a VXLAN device, down."""

    def create_wireguard(self, name: str, mtu: int) -> None:
        """Make a WireGuard device, down. Raises PlatformError where the kernel has none."""

    def remove_link(self, link: Link) -> None:
        """Remove a link."""

    def without_own_addresses(self, link: Link) -> None:
        """Have the kernel give ``link`` no IPv6 link-local address when it comes up; before it does."""

    def set_up(self, link: Link) -> None:
        """Bring a link up and wait for its carrier. Raises TryAgainError when there is none for three seconds."""

    def set_ipv4_parameter(self, link: Link, number: int, value: int) -> None:
        """Set an IPv4 parameter of a link by its number (linux/ip.h, IPV4_DEVCONF_*); works without /proc/sys."""


class Rtnetlink(Closing):
    """The kernel, by a socket in the network namespace that it is made in."""

    def __init__(self) -> None:
        self._netlink = Netlink(socket.NETLINK_ROUTE)

    @property
    def port(self) -> int:
        """The netlink port that notices of what this socket has done bear."""
        return self._netlink.port

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def observe(self) -> Observed:
        """See RouteNetlink."""
        links = self.links()
        names = {link.index: link.name for link in links}
        return Observed(links, self._addresses(names), self._routes(names, None), self.rules())

    def links(self) -> tuple[Link, ...]:
        """See RouteNetlink."""
        found = self._netlink.dump(messages.link_message(), _GETLINK, "list the interfaces")
        return tuple(map(messages.link_of, found))

    def link(self, name: str) -> Link | None:
        """See RouteNetlink."""
        try:
            found = self._netlink.get(messages.link_message(name=name), _GETLINK, f"look at {name}")
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
            return None
        return messages.link_of(found)

    def addresses(self, link: Link | None = None) -> tuple[LinkAddress, ...]:
        """See RouteNetlink."""
        if link is None:
            return self._addresses(self._names())
        found = self._addresses({link.index: link.name}, link.index)
        return tuple(item for item in found if item.interface == link.name)

    def _names(self) -> dict[int, str]:
        """Return the names of the links by index, without taking the messages apart: there may be thousands."""
        head = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        found = {}
        for _, _, data in self._netlink.stream(_GETLINK, NLM_F_DUMP, head, "list the interfaces"):
            (index,) = struct.unpack_from("=i", data, _INDEX_AT)
            for type_, start, end in attributes(data, _LINK_ATTRIBUTES_AT, len(data)):
                if type_ == _IFLA_IFNAME:
                    found[index] = data[start : end - 1].decode(errors="replace")
        return found

    def _addresses(self, names: dict[int, str], index: int = 0) -> tuple[LinkAddress, ...]:
        request = ifaddrmsg()
        request["index"] = index
        dump = self._netlink.dump(request, _GETADDR, "list the addresses")
        found = (messages.address_of(message, names) for message in dump)
        return tuple(item for item in found if item is not None)

    def routes(self, protocol: int | None = None) -> tuple[Route, ...]:
        """See RouteNetlink."""
        return self._routes(self._names(), protocol)

    def default_routes(self) -> tuple[Route, ...]:
        """See RouteNetlink."""
        return self._routes(self._names(), None, lambda data: data[_LENGTH_AT] == 0 and data[_TABLE_AT] == MAIN_TABLE)

    def _routes(
        self,
        names: dict[int, str],
        protocol: int | None,
        keep: Callable[[bytes], bool] = lambda data: data[_TABLE_AT] != _LOCAL_TABLE,
    ) -> tuple[Route, ...]:
        """Return the routes whose messages ``keep`` says are worth taking apart."""
        found = []
        # One family at a time: a strict dump of all families stops after IPv4.
        for family in Family:
            request = messages.routes_request(family, protocol)
            for message in self._of_family(request, _GETROUTE, "list the routes", keep):
                found += [r for r in messages.routes_of(message, names) if protocol in (None, r.protocol)]
        return tuple(found)

    def rules(self) -> tuple[PolicyRule, ...]:
        """See RouteNetlink."""
        return tuple(
            messages.rule_of(message, family)
            for family in Family
            for message in self._of_family(messages.rules_request(family), _GETRULE, "list the policy rules")
        )

    def _of_family(
        self, request: Any, type_: int, doing: str, keep: Callable[[bytes], bool] | None = None
    ) -> list[Any]:
        """Return what there is of one family: nothing where the kernel does not have it (``ipv6.disable=1``)."""
        try:
            return self._netlink.dump(request, type_, doing, keep)
        except NetlinkError as error:
            if error.code == errno.EAFNOSUPPORT:
                return []
            raise

    def neighbours(self, link: Link) -> frozenset[Neighbour]:
        """See RouteNetlink."""
        found = (item for af in messages.FAMILIES for item in self._entries(link, af))
        return frozenset(item for item in found if isinstance(item, Neighbour))

    def forwarding(self, link: Link) -> frozenset[ForwardingEntry]:
        """See RouteNetlink."""
        found = self._entries(link, messages.AF_BRIDGE)
        return frozenset(item for item in found if isinstance(item, ForwardingEntry))

    def _entries(self, link: Link, af: int) -> list[Neighbour | ForwardingEntry]:
        dump = self._netlink.dump(messages.neighbours_request(link, af), _GETNEIGH, "list the neighbours")
        found = (messages.neighbour_of(message, link) for message in dump)
        return [item for item in found if item is not None]

    def add_address(self, link: Link, item: LinkAddress, *, replace: bool = False) -> None:
        """See RouteNetlink."""
        flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
        request = messages.address_message(link, item)
        _there_is_fine(lambda: self._netlink.change(request, _NEWADDR, flags, f"add {item}"))

    def remove_address(self, link: Link, item: LinkAddress) -> None:
        """See RouteNetlink."""
        _gone_is_fine(lambda: self._netlink.change(messages.address_message(link, item), _DELADDR, 0, f"remove {item}"))

    def add_route(self, route: Route, index: int | None) -> None:
        """See RouteNetlink."""
        self._netlink.change(
            messages.route_message(route, index), _NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, f"add {route}"
        )

    def remove_route(self, route: Route, index: int | None) -> None:
        """See RouteNetlink."""
        request = messages.route_message(route, index, remove=True)
        _gone_is_fine(lambda: self._netlink.change(request, _DELROUTE, 0, f"remove {route}"))

    def renewal(self, link: Link, addresses: Iterable[LinkAddress], routes: Iterable[Route]) -> Callable[[], None]:
        """Return an action that adds, or replaces, addresses and routes of ``link`` in one go. For who does it several
        times a second: what it says is put together once. Raises as ``add_route`` does.
        """
        flags = NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK
        requests = [(_NEWADDR, flags, encoded(messages.address_message(link, item))) for item in addresses]
        requests += [(_NEWROUTE, flags, encoded(messages.route_message(route, link.index))) for route in routes]
        return lambda: self._netlink.change_all(requests, f"renew addresses and routes of {link.name}")

    def add_rule(self, rule: PolicyRule) -> None:
        """See RouteNetlink."""
        request = messages.rule_message(rule)
        _there_is_fine(lambda: self._netlink.change(request, _NEWRULE, NLM_F_CREATE | NLM_F_EXCL, f"add {rule}"))

    def remove_rule(self, rule: PolicyRule) -> None:
        """See RouteNetlink."""
        _gone_is_fine(lambda: self._netlink.change(messages.rule_message(rule), _DELRULE, 0, f"remove {rule}"))

    def set_neighbour(self, link: Link, entry: Neighbour | ForwardingEntry) -> None:
        """See RouteNetlink."""
        request = messages.neighbour_message(link, entry)
        self._netlink.change(request, _NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, f"add {entry} to {link.name}")

    def resolve(self, link: Link, address: Address) -> None:
        """Have the kernel ask who has an address of the link, unless it knows. Raises EgressRouterError.

        It asks from an address of its own. For a packet that it passes on it would ask from that one's source, where it
        has that address, and so tell the neighbour that it is here now (ip-sysctl, arp_announce).
        """
        request = messages.resolve_message(link, address)
        self._netlink.change(request, _NEWNEIGH, NLM_F_CREATE, f"ask who has {address} on {link.name}")

    def remove_neighbour(self, link: Link, entry: Neighbour | ForwardingEntry) -> None:
        """See RouteNetlink."""
        request = messages.neighbour_message(link, entry)
        _gone_is_fine(lambda: self._netlink.change(request, _DELNEIGH, 0, f"remove {entry} from {link.name}"))

    def create_vxlan(self, name: str, mac: str, mtu: int, vxlan: Vxlan) -> None:
        """See RouteNetlink."""
        request = messages.vxlan_message(name, mac, mtu, vxlan)
        self._netlink.change(request, _NEWLINK, NLM_F_CREATE | NLM_F_EXCL, f"create {name}")

    def create_wireguard(self, name: str, mtu: int) -> None:
        """See RouteNetlink."""
        request = messages.wireguard_message(name, mtu)
        try:
            self._netlink.change(request, _NEWLINK, NLM_F_CREATE | NLM_F_EXCL, f"create {name}")
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                # Imported here: every pod waits for what its init container imports.
                from egress_router.net.wireguard import MISSING

                raise PlatformError(MISSING) from error
            raise

    def create_macvlan(self, name: str, parent: Link, mode: MacvlanMode, netns: int) -> None:
        """Make a macvlan on ``parent``, in the network namespace of the descriptor ``netns``. Raises NetlinkError."""
        request = messages.macvlan_message(name, parent, mode, netns)
        self._netlink.change(request, _NEWLINK, NLM_F_CREATE | NLM_F_EXCL, f"create {name} on {parent.name}")

    def create_veth(self, name: str, peer: str) -> None:
        """Make two interfaces, each of which hears what the other one sends. Raises NetlinkError."""
        request = messages.veth_message(name, peer)
        self._netlink.change(request, _NEWLINK, NLM_F_CREATE | NLM_F_EXCL, f"create {name}")

    def remove_link(self, link: Link) -> None:
        """See RouteNetlink."""
        _gone_is_fine(
            lambda: self._netlink.change(messages.link_message(link.index), _DELLINK, 0, f"remove {link.name}")
        )

    def without_own_addresses(self, link: Link) -> None:
        """See RouteNetlink. By netlink, which works where /proc/sys is read-only."""
        if not os.access("/proc/net/if_inet6", os.F_OK):
            return
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE]))
        spec = attribute(_IFLA_AF_SPEC | NLA_F_NESTED, attribute(socket.AF_INET6 | NLA_F_NESTED, mode))
        self._netlink.change(messages.link_message(link.index), _NEWLINK, 0, f"prepare {link.name}", extra=spec)

    def set_up(self, link: Link, *, wait: bool = True) -> None:
        """See RouteNetlink. Without ``wait`` there may be no carrier afterwards."""
        request = messages.link_message(link.index)
        request["flags"] = request["change"] = messages.IFF_UP
        self._netlink.change(request, _NEWLINK, 0, f"set {link.name} up")
        end = time.monotonic() + _CARRIER_SECONDS
        while wait and not ((now := self.link(link.name)) and now.lower_up):
            if time.monotonic() > end:
                raise TryAgainError(f"{link.name} has no carrier after {_CARRIER_SECONDS:g} s: is its parent NIC up?")
            time.sleep(0.005)

    def set_ipv4_parameter(self, link: Link, number: int, value: int) -> None:
        """See RouteNetlink."""
        conf = attribute(_IFLA_INET_CONF | NLA_F_NESTED, attribute(number, struct.pack("=I", value)))
        spec = attribute(_IFLA_AF_SPEC | NLA_F_NESTED, attribute(socket.AF_INET | NLA_F_NESTED, conf))
        doing = f"set IPv4 parameter {number} of {link.name} to {value}"
        self._netlink.change(messages.link_message(link.index), _SETLINK, 0, doing, extra=spec)


def own_addresses() -> tuple[Address, ...]:
    """Return every address of this process's namespace, sorted. Raises EgressRouterError."""
    with Rtnetlink() as kernel:
        found = {entry.address.ip for entry in kernel.addresses()}
    return tuple(sorted(found, key=lambda address: (address.version, address)))


def _gone_is_fine(action: Callable[[], None]) -> None:
    try:
        action()
    except NetlinkError as error:
        if error.code not in _GONE:
            raise


def _there_is_fine(action: Callable[[], None]) -> None:
    try:
        action()
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
