"""Which tracked connections the present rules would not make: they must end."""

from __future__ import annotations

import errno
from bisect import bisect_right

from egress_router.config.values import Address, Family, HostName, Protocol, family_of
from egress_router.net.conntrack import Connection, Conntrack, nothing_tracked
from egress_router.net.netlink import NetlinkError
from egress_router.records import replace
from egress_router.redirect.nat import NatBackend
from egress_router.redirect.values import Desired, FlowOffload, NamedRedirect, Redirect, Translation


class Sieve:
    """Tells the connections that ``translation`` stands for from those that it does not."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        rules: dict[tuple[Family, Protocol], list[Redirect | NamedRedirect]] = {}
        for rule in translation.rules.claims:
            families = Family if isinstance(rule, NamedRedirect) else (rule.family,)
            for family in families:
                rules.setdefault((family, rule.protocol), []).append(rule)
        self._rules = {key: sorted(found, key=lambda rule: rule.ports.first) for key, found in rules.items()}
        self._starts = {key: [rule.ports.first for rule in found] for key, found in self._rules.items()}
        self._fallbacks: dict[Family, Address | HostName] = {
            rule.family: rule.address for rule in translation.rules.fallbacks
        }
        if translation.rules.named_fallback is not None:
            self._fallbacks |= dict.fromkeys(Family, translation.rules.named_fallback.name)

    def stale(self, connection: Connection) -> bool:
        """Whether ``connection`` goes elsewhere, or leaves with another source, than a new one would.

        One that was not translated is a process's in the pod and stays, unless nobody has answered it: a UDP flow that
        began before its rule would otherwise never be redirected. One that a name's rule has made stays when the name
        has other addresses by now. A router of a pair that does not hold its sources goes on with none.
        """
        if not self._translation.holds:
            return connection.translated
        wanted = self._destination(connection)
        if not connection.translated:
            return wanted is not None and not connection.answered
        source = self._translation.sources.get(family_of(connection.address))
        if wanted is None or connection.reply_to != source:
            return True
        to, port = wanted
        return port != connection.reply_port or not self._leads_to(to, connection)

    def _leads_to(self, to: Address | HostName, connection: Connection) -> bool:
        if not isinstance(to, HostName):
            return to == connection.reply_address
        return connection.mark == to.mark or connection.reply_address in (self._translation.answers or {}).get(to, ())

    def _destination(self, connection: Connection) -> tuple[Address | HostName, int] | None:
        family = family_of(connection.address)
        key = (family, connection.protocol)
        at = bisect_right(self._starts.get(key, ()), connection.port) - 1
        if at >= 0:
            rule = self._rules[key][at]
            if connection.port in rule.ports:
                to = rule.name if isinstance(rule, NamedRedirect) else rule.address
                return to, connection.port - rule.ports.first + rule.to_ports.first
        health = self._translation.health_port
        if connection.protocol is Protocol.TCP and health is not None and connection.port == health:
            return None
        fallback = self._fallbacks.get(family)
        return None if fallback is None else (fallback, connection.port)


def translated(desired: Desired) -> list[Connection]:
    """Return the translated connections. Raises PlatformError."""
    with Conntrack() as conntrack:
        return [item for item in conntrack.connections(_addresses(desired)) if item.translated]


def end_stale(desired: Desired, backend: NatBackend) -> int:
    """End the connections that the rules in force would not make; return how many. Raises EgressRouterError.

    Some kernels refuse that (EBUSY) for what a flow table has: then ``backend`` takes it away meanwhile.
    """
    try:
        return _end_stale(desired)
    except NetlinkError as error:
        if error.code != errno.EBUSY:
            raise
    backend.apply(replace(desired.translation, offload=FlowOffload.OFF))
    try:
        return _end_stale(desired)
    finally:
        backend.apply(desired.translation)


def _end_stale(desired: Desired) -> int:
    if nothing_tracked():
        return 0
    sieve, addresses = Sieve(desired.translation), _addresses(desired)
    with Conntrack() as conntrack:
        if desired.translation.rules.names:
            # The mark that a name's rule has left decides as well.
            return conntrack.end([item for item in conntrack.connections(addresses) if sieve.stale(item)])
        return conntrack.end(conntrack.choose(addresses, sieve.stale))


def _addresses(desired: Desired) -> list[Address]:
    return [address for found in desired.network.pod_addresses.values() for address in found]
