"""Which tracked connections the present rules would not make: they must end."""

from __future__ import annotations

from bisect import bisect_right

from egress_router.model.addresses import Address, Family, family_of
from egress_router.model.connection import Connection
from egress_router.model.router import Protocol, Redirect
from egress_router.model.translation import Translation


class Sieve:
    """Tells the connections that ``translation`` stands for from those that it does not."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        rules: dict[tuple[Family, Protocol], list[Redirect]] = {}
        for rule in translation.rules.redirects:
            rules.setdefault((rule.family, rule.protocol), []).append(rule)
        self._rules = {key: sorted(found, key=lambda rule: rule.ports.first) for key, found in rules.items()}
        self._starts = {key: [rule.ports.first for rule in found] for key, found in self._rules.items()}
        self._fallbacks = {rule.family: rule.address for rule in translation.rules.fallbacks}

    def stale(self, connection: Connection) -> bool:
        """Whether ``connection`` goes elsewhere, or leaves with another source, than a new one would.

        One that was not translated is a process's in the pod and stays, unless nobody has answered it: a UDP flow that
        began before its rule would otherwise never be redirected.
        """
        wanted = self._destination(connection)
        if not connection.translated:
            return wanted is not None and not connection.answered
        source = self._translation.sources.get(family_of(connection.address))
        return wanted != (connection.reply_address, connection.reply_port) or connection.reply_to != source

    def _destination(self, connection: Connection) -> tuple[Address, int] | None:
        family = family_of(connection.address)
        key = (family, connection.protocol)
        at = bisect_right(self._starts.get(key, ()), connection.port) - 1
        if at >= 0:
            rule = self._rules[key][at]
            if connection.port in rule.ports:
                return rule.address, connection.port - rule.ports.first + rule.to_ports.first
        health = self._translation.health_port
        if connection.protocol is Protocol.TCP and health is not None and connection.port == health:
            return None
        fallback = self._fallbacks.get(family)
        return None if fallback is None else (fallback, connection.port)
