"""The redirect router on this kernel: bring the pod's network to the desired state, and tell how far it is from it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Collection, Iterable

from egress_router.config.values import Address, family_of
from egress_router.daemon.log import LOGGER
from egress_router.errors import AddressInUse, EgressRouterError, PlatformError, StateMismatch, TryAgainError
from egress_router.net import capabilities
from egress_router.net.arp_nd import Neighbours
from egress_router.net.families import has_sockets
from egress_router.net.rtnetlink.kernel import RouteNetlink, Rtnetlink
from egress_router.net.rtnetlink.values import MAIN_TABLE, Link, LinkAddress, Observed, Route
from egress_router.net.sysctl import read_sysctl, set_sysctl
from egress_router.records import replace
from egress_router.redirect.desired import desired_state, wanted_link
from egress_router.redirect.egress_link import refuse_unfit, seen
from egress_router.redirect.macvlan import create_macvlan, host_namespace
from egress_router.redirect.nat import NatBackend, choose_backend
from egress_router.redirect.network_drift import Drift, network_drift
from egress_router.redirect.network_state import PROTOCOL, NetworkState
from egress_router.redirect.offload import refuse_without_offload
from egress_router.redirect.plan import cluster_interface_warnings
from egress_router.redirect.values import Desired, FlowOffload, RouterConfig
from egress_router.redirect.withdraw import withdraw

#: Changing links, addresses, routes and rules; asking and telling the neighbours, and reading iptables.
CAPABILITIES = ("NET_ADMIN", "NET_RAW")
PUT_BACK_ATTEMPTS = 3
#: Seconds between two looks whether an address in use is free. Nobody serves from its end to its successor's next look.
FREE_PAUSE = 0.3
#: Duplicate address detection takes up to two seconds by default (RFC 4862, 5.4; ip-sysctl, dad_transmits).
_DETECTION_SECONDS = 5.0


def set_up(config: RouterConfig, *, later: bool = False) -> tuple[Desired, NatBackend]:
    """Make the pod an egress router; return what is in place now, and by which backend.

    Safe to run again and after a kill at any point: what is in place stays. ``later``: `run`, the next container, takes
    the addresses; where it has done so already, they stay as well.

    The filter and the translation stand before the interface comes up, the egress default route is in place before
    the cluster's one goes, and what is forwarded never looks at the main table, so there is no instant at which a
    packet can leave with another source. Raises EgressRouterError.
    """
    _refuse_missing_families(config)
    offload = config.flow_offload if config.mode.redirects else FlowOffload.OFF
    backend = choose_backend(config.backend, config.sources, offload)
    if offload is FlowOffload.ON:
        # Before anything is changed.
        capabilities.require(CAPABILITIES, "setting up an egress router")
        refuse_without_offload(backend.cannot_offload())
    with Rtnetlink() as kernel:
        link, observed = _egress_link(kernel, config)
        for warning in cluster_interface_warnings(observed, link.name):
            LOGGER.warning("%s", warning)
        if later and not _serves(config, observed, link):
            # All else is done when the address is free.
            config = replace(config, holds=False)
        desired = desired_state(config, observed, link.name)
        _refuse_other_addresses(config, observed, link)
        drift = network_drift(desired.network, observed)
        changed = backend.apply(desired.translation)
        why = backend.why_no_offload(desired.translation)
        if offload is FlowOffload.ON and why:
            refuse_without_offload(why)
        LOGGER.debug("%s rules are in place (%s)", backend.name, "changed" if changed else "as they were")
        changed |= _set_sysctls(kernel, desired.network, link, observed)
        changed |= bool(drift.lines())
        _apply_network(kernel, config, desired.network, drift, link, observed)
        _verify_network(kernel, desired.network)
        _wait_for_pod_addresses(kernel, desired.network, observed)
    sources = ", ".join(str(source) for source in config.sources.values())
    state = "set up" if changed else "already in place, nothing changed"
    doing = "leaving" if config.holds else "ready to leave"
    LOGGER.info("%s: %s by %s with %s (%s)", state, doing, link.name, sources, backend.name)
    if not why:
        LOGGER.info("established connections go around the rules, by a flow table")
    elif offload is FlowOffload.AUTO:
        LOGGER.info("established connections go by the rules: %s", why)
    return desired, backend


def _always() -> bool:
    return True


def restore(
    config: RouterConfig, desired: Desired, may_hold: Callable[[], bool] = _always
) -> tuple[list[str], Observed]:
    """Put back what is missing from the network of a router that was set up.

    Returns it as diff lines, nothing when all is there, and what was there. Raises EgressRouterError when it cannot be
    put back.

    A router of a pair may lose its role at any moment, and with it what it holds: ``may_hold`` says so. Then its
    addresses are not there afterwards, whoever took them away first, and are announced no more.
    """
    network = desired.network

    def may() -> bool:
        return not network.held or may_hold()

    found = []
    with Rtnetlink() as kernel:
        observed = kernel.observe()
        link = observed.link(network.egress)
        if link is None:
            link, observed = _egress_link(kernel, config)
            found.append(f"- the interface {network.egress}")
            if link.name != network.egress:
                raise PlatformError(f"{network.egress} is gone; {seen(observed.links)}")
        for attempt in range(PUT_BACK_ATTEMPTS):
            lines = _network_drift_lines(network, observed)
            if not lines:
                break
            found += [line for line in lines if line not in found]
            drift = network_drift(network, observed)
            _set_sysctls(kernel, network, link, observed)
            try:
                # No duplicate detection: the address was ours a moment ago, and every moment without it costs.
                _apply_network(kernel, replace(config, dad=False), network, drift, link, observed, may)
            except EgressRouterError:
                if may():
                    raise
            if not may():
                # It was taken away when the role went, and may be back since.
                withdraw(kernel, network, link)
                break
            try:
                _verify_network(kernel, network)
            except StateMismatch:
                # What takes things away may be in the middle of it: a link that goes down loses its routes one by one.
                if attempt + 1 == PUT_BACK_ATTEMPTS:
                    raise
                observed = kernel.observe()
                link = observed.link(network.egress) or link
            else:
                break
    return found, observed


def _egress_link(kernel: RouteNetlink, config: RouterConfig) -> tuple[Link, Observed]:
    """Choose the egress interface, or create it; before anything is changed all capabilities are checked.

    Returns the interface, and what the namespace holds with it.
    """
    observed = kernel.observe()
    choice = wanted_link(config, observed)
    if not choice.create:
        capabilities.require(CAPABILITIES, "setting up an egress router")
        LOGGER.debug("egress interface %s: %s", choice.name, choice.reason)
    else:
        try:
            host_netns = host_namespace(config.host_netns)
            more = capabilities.to_enter(host_netns)
            purpose = f"setting up an egress router and creating its interface on a NIC of {host_netns}"
            capabilities.require((*CAPABILITIES, *more), purpose)
            sources = [source.ip for source in config.sources.values()]
            done = create_macvlan(choice.name, config.parent_interface, config.macvlan_mode, host_netns, sources)
        except PlatformError as error:
            raise PlatformError(
                f"there is no egress interface. EGRESS_INTERFACE is not set, there is no macvlan0 and no macvlan link "
                f"({seen(observed.links)}), and {error}"
            ) from error
        LOGGER.info("%s", done)
        observed = kernel.observe()
    link = observed.link(choice.name)
    if link is None:
        raise PlatformError(f"{choice.name} was there and is gone; {seen(observed.links)}")
    refuse_unfit(link, observed.links)
    return link, observed


def _refuse_missing_families(config: RouterConfig) -> None:
    for family, source in config.sources.items():
        if not has_sockets(family):
            raise PlatformError(
                f"this machine has no {family} (ipv6.disable=1 on the kernel's command line?), so nothing can leave "
                f"with {source}: take it out of EGRESS_SOURCE and its gateway out of EGRESS_GATEWAY, or run the pod on "
                "another node"
            )


def _refuse_other_addresses(config: RouterConfig, observed: Observed, link: Link) -> None:
    for item in observed.addresses:
        wanted = config.sources.get(family_of(item.address))
        if not item.global_scope or wanted is None:
            continue
        if item.interface != link.name:
            if item.address.ip == wanted.ip:
                raise PlatformError(
                    f"{item.address} is on {item.interface}, not on {link.name}, the egress interface: what arrives "
                    "for it on one would be answered on the other. Choose another EGRESS_SOURCE, or set "
                    f"EGRESS_INTERFACE={item.interface} if that leads outside"
                )
            continue
        if item.address == wanted:
            continue
        if item.address.ip == wanted.ip:
            raise PlatformError(
                f"{link.name} already carries {item.address}, EGRESS_SOURCE is {wanted}: the same address with another "
                f"prefix length. Set EGRESS_SOURCE={item.address} if that is the length of the egress network, or have "
                f"whatever made the interface (Multus' IPAM?) give it /{wanted.network.prefixlen}"
            )
        if not _is_autoconfigured(item):
            raise PlatformError(
                f"{link.name} already carries {item.address}, EGRESS_SOURCE is {wanted}: traffic could leave with "
                f"either. Remove it (ip address del {item.address} dev {link.name}) or name another EGRESS_INTERFACE"
            )


def _serves(config: RouterConfig, observed: Observed, link: Link) -> bool:
    """Whether a router has one of the addresses already: `init` runs again beside it. (One that somebody else has given
    to the interface is there before any rule of ours.)
    """
    sources = config.sources.values()
    ours = any(rule.protocol == PROTOCOL for rule in observed.rules)
    return ours and any(item.interface == link.name and item.address in sources for item in observed.addresses)


def _is_autoconfigured(item: LinkAddress) -> bool:
    """Whether router advertisements have made the address (RFC 4862): it is taken away, and comes back no more once
    accept_ra and autoconf are off.
    """
    return item.dynamic and item.address.version == 6


def _stray(observed: Observed, network: NetworkState, link: Link) -> list[LinkAddress]:
    """Return what has to go from the egress interface: link-local and autoconfigured addresses."""
    return [
        item
        for item in observed.addresses
        if item.interface == link.name
        and item not in network.present_addresses
        and (not item.global_scope or _is_autoconfigured(item))
    ]


def _set_sysctls(kernel: RouteNetlink, network: NetworkState, link: Link, observed: Observed) -> bool:
    before = [read_sysctl(item) for item in network.sysctls]
    # Whoever made the interface may have brought it up already, link-local address and all.
    kernel.without_own_addresses(link)
    for item in network.sysctls:
        problem = set_sysctl(item, kernel, observed.link(item.interface or ""))
        if problem is not None:
            LOGGER.log(logging.WARNING if item.missed else logging.DEBUG, "%s", problem)
    return before != [read_sysctl(item) for item in network.sysctls]


def _apply_network(
    kernel: RouteNetlink,
    config: RouterConfig,
    network: NetworkState,
    drift: Drift,
    link: Link,
    observed: Observed,
    may_hold: Callable[[], bool] = _always,
) -> None:
    """Put in place what is missing, in the order that lets nothing out by the wrong way; then remove the rest."""
    index = {item.name: item.index for item in observed.links}

    def add(missing: tuple[Route, ...]) -> None:
        for route in missing:
            kernel.add_route(route, index.get(route.interface or ""))

    by_cluster = tuple(r for r in drift.missing_routes if r.interface == network.cluster)
    for item in drift.unexpected_addresses:
        # First of all what a standby must not have; IPv4's routes go with it.
        kernel.remove_address(link, item)
    add(tuple(r for r in by_cluster if r.table != MAIN_TABLE))
    for rule in drift.missing_rules:
        kernel.add_rule(rule)
    for rule in drift.unexpected_rules:
        kernel.remove_rule(rule)
    if drift.link_down:
        kernel.set_up(link)
    for item in _stray(observed, network, link):
        kernel.remove_address(link, item)
    neighbours = Neighbours(link.name, link.index, link.mac, shared=link.shares_mac)

    def announce(items: Iterable[LinkAddress]) -> None:
        if may_hold():
            neighbours.announce(item.address.ip for item in items)

    try:
        if may_hold():
            _add_addresses(kernel, config, drift.missing_addresses, observed, link, neighbours)
        announce(drift.missing_addresses)
        _wait_for_detection(kernel, network, link)
        add(tuple(r for r in drift.missing_routes if r.interface != network.cluster))
        add(tuple(r for r in by_cluster if r.table == MAIN_TABLE))
        # Adding replaces what has the same key; removing that would hit the new one.
        replaced = {_key(route) for route in drift.missing_routes}
        for route in (r for r in drift.unexpected_routes if _key(r) not in replaced):
            kernel.remove_route(route, index.get(route.interface or ""))
        # A second announcement, a moment after the first: one may get lost (RFC 5227, 2.3 asks for two).
        announce(network.present_addresses)
    finally:
        neighbours.close()


def _key(route: Route) -> Route:
    """Return what the kernel tells routes apart by, when one is removed."""
    return replace(route, source=None, mtu=None, protocol=PROTOCOL)


def _add_addresses(
    kernel: RouteNetlink,
    config: RouterConfig,
    missing: tuple[LinkAddress, ...],
    observed: Observed,
    link: Link,
    neighbours: Neighbours,
) -> None:
    """Probe for what is missing, and before anything of ours stood here also for what somebody else has put there."""
    foreign: list[LinkAddress] = []
    if not any(rule.protocol == PROTOCOL for rule in observed.rules):
        sources = config.sources.values()
        foreign = [item for item in observed.addresses if item.interface == link.name and item.address in sources]
    probed = dict.fromkeys(item.address.ip for item in (*missing, *foreign))
    deaf = [str(ip) for ip in probed if ip.version == 4 and link.shares_mac]
    if config.dad and deaf:
        # An ipvlan hands out what it receives by IP address, and an answer to a probe of RFC 5227 has none of ours.
        LOGGER.warning(
            "%s is an ipvlan, which gets no answers to IPv4 address probes: another owner of %s would not be noticed",
            link.name,
            ", ".join(deaf),
        )
    if config.dad and probed:
        _wait_until_free(config, probed, neighbours)
    for item in missing:
        if item in observed.addresses:
            # The kernel's own detection once found a duplicate, which stays so until the address is added anew.
            kernel.remove_address(link, item)
        kernel.add_address(link, item)


def _wait_until_free(config: RouterConfig, addresses: Collection[Address], neighbours: Neighbours) -> None:
    """Probe for addresses until nobody has them, for at most ``config.dad_wait`` seconds: a pod that was deleted or
    evicted is replaced at once, and keeps its address until its connections have ended.

    Raises AddressInUse after that time, or when a signal asks to leave: nothing is served yet.
    """
    deadline = time.monotonic() + config.dad_wait
    warned = hasty = False
    # Blocked, they are kept for us: the first process of a container would not hear them at all.
    leaving = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, leaving)
    try:
        while True:
            try:
                neighbours.check_duplicates(addresses, config.gateways.values(), hasty=hasty)
            except AddressInUse as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                # The last look is a thorough one, whose message is the error's.
                hasty = left > 2 * FREE_PAUSE
                if not warned:
                    LOGGER.warning("%s. Waiting for at most %.0f s until it is free", error, config.dad_wait)
                    warned = True
                # Two that ask at once take each other for the owner: each asks again at another time.
                pause = time.monotonic_ns() % 6000 / 1000 if error.asked else FREE_PAUSE
                if signal.sigtimedwait(leaving, min(left, pause)) is not None:
                    raise
            else:
                return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_detection(kernel: RouteNetlink, network: NetworkState, link: Link) -> None:
    """Wait until the kernel has looked for duplicates of an IPv6 address that somebody else has put on the interface:
    until then nothing can leave with it. Raises AddressInUse when there is one, TryAgainError when it takes too long.
    """
    duplicates, detected = _detection(kernel, link, {item.address.ip for item in network.present_addresses})
    if duplicates:
        raise AddressInUse(
            f"{' and '.join(duplicates)} {'is' if len(duplicates) == 1 else 'are'} in use: the kernel's duplicate "
            f"address detection has found another machine that has it on {link.name}; remove that one, or choose "
            "another address"
        )
    if not detected:
        raise TryAgainError(f"the kernel still looks for duplicates of addresses on {link.name}")


def _wait_for_pod_addresses(kernel: RouteNetlink, network: NetworkState, observed: Observed) -> None:
    """Wait for the same on the cluster's side, where a router that calls itself ready is spoken to at once. What is
    wrong there is not ours, and the other family may work.
    """
    link = observed.link(network.cluster)
    if link is None:
        return
    mine = {address for addresses in network.pod_addresses.values() for address in addresses}
    duplicates, detected = _detection(kernel, link, mine)
    for text in duplicates:
        LOGGER.warning(
            "%s, the pod's own address on %s, cannot be used: the kernel has found another machine that has it",
            text,
            link.name,
        )
    if not detected:
        LOGGER.warning("the kernel still looks for duplicates of the pod's own addresses on %s", link.name)


def _detection(kernel: RouteNetlink, link: Link, mine: Collection[Address]) -> tuple[list[str], bool]:
    """Wait until the kernel's duplicate address detection (RFC 4862, 5.4) for those of ``mine`` on ``link`` has ended,
    for _DETECTION_SECONDS at most; return the duplicates, and whether it has.
    """
    end = time.monotonic() + _DETECTION_SECONDS
    while True:
        ours = [item for item in kernel.addresses(link) if item.address.ip in mine]
        detected = not any(item.tentative for item in ours)
        if detected or time.monotonic() > end:
            return [str(item.address.ip) for item in ours if item.duplicate], detected
        time.sleep(0.02)


def drift_lines(kernel: RouteNetlink, desired: Desired, backend: NatBackend) -> list[str]:
    """Return every difference between the desired state and the kernel's, as diff lines; empty when there is none."""
    return _network_drift_lines(desired.network, kernel.observe()) + backend.drift(desired.translation)


def _network_drift_lines(network: NetworkState, observed: Observed) -> list[str]:
    found = network_drift(network, observed).lines()
    for item in network.sysctls:
        actual = read_sysctl(item)
        if item.required and actual != item.value:
            found += [f"- {item}", f"+ sysctl {item.key} = {actual}"]
    return found


def _verify_network(kernel: RouteNetlink, network: NetworkState) -> None:
    """Read the network back; the backend has done so with its rules. Raises StateMismatch with the difference."""
    found = _network_drift_lines(network, kernel.observe())
    if found:
        raise StateMismatch(
            "what was read back is not what was put in place (- desired, + actual); something else changes this pod's "
            "network at the same time:\n  " + "\n  ".join(found)
        )
