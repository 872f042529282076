"""What a policy decides about a connection by name, with the meaning of ``evaluate`` and in a few steps: the policy is
compiled once, and then asked about every connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from egress_router.config.embedded_ipv4 import is_isatap
from egress_router.policy.attribution import NameOwners, Owners
from egress_router.policy.compile import compile_policy
from egress_router.policy.evaluate import NO_LINE, Verdict
from egress_router.policy.values import NOWHERE, Address, Decision, Network, Policy, to_number

CLOSED = "a closed address"


class Judge:
    """Judges by one policy, in a pod that has the addresses ``own`` and whose routes lead into the ``cluster`` for some
    networks. All methods may be called from any thread.
    """

    def __init__(self, policy: Policy, own: Iterable[Address] = (), cluster: Iterable[Network] = ()) -> None:
        self._cluster = tuple(cluster)
        compiled = compile_policy(policy, own, self._cluster)
        self._clients = compiled.clients
        self._lines = {line.number: line for line in policy.lines}
        self._names = NameOwners(policy, compiled.clients)
        self._owners = Owners(compiled)
        self._isatap = {number for first, last in compiled.isatap for number in (first, last)}
        allowing = [rule for rule in compiled.rules if rule.addresses and rule.decision is Decision.ALLOW]
        self._first_allowing = cache(
            lambda group, port: min(
                (
                    number
                    for rule in allowing
                    if rule.branch in self._clients.groups[group].branches and port in rule.ports
                    for number in rule.numbers
                ),
                default=None,
            )
        )

    def denied_by_name(self, client: Address, host: str, port: int) -> Verdict | None:
        """Return the verdict about a name that is denied whatever it resolves to, so that DNS need not be asked; None
        when that matters.
        """
        group = self._clients.group(client)
        verdict = self._verdict(self._names.line(host, port, group), None)
        allowing = self._first_allowing(group, port)
        if verdict.allowed or (allowing is not None and (verdict.line is None or allowing < verdict.line.number)):
            return None
        return verdict

    def in_cluster(self, address: Address) -> bool:
        """Return whether the routes lead to an address by the cluster's interface."""
        return any(address.version == network.version and address in network for network in self._cluster)

    def judge(self, client: Address, host: str, port: int, addresses: Sequence[Address]) -> list[Verdict]:
        """Return a verdict for every address, or one about the name where there is none. A connection is allowed when
        all are; otherwise the first one denied in the order of the lines, what is closed before all, tells why.
        """
        group = self._clients.group(client)
        by_name = self._names.line(host, port, group)
        if not addresses:
            return [self._verdict(by_name, None)]
        return [self._about(by_name, address, port, group) for address in addresses]

    def _about(self, by_name: int | None, address: Address, port: int, group: int) -> Verdict:
        number = to_number(address)
        if number in NOWHERE or (is_isatap(address) and number not in self._isatap):
            return Verdict(False, None, CLOSED, address)
        by_address = self._owners.line(address, port, group)
        if by_address == 0:
            return Verdict(False, None, CLOSED, address)
        return self._verdict(min((one for one in (by_name, by_address) if one is not None), default=None), address)

    def _verdict(self, number: int | None, address: Address | None) -> Verdict:
        line = self._lines.get(number) if number is not None else None
        if line is None:
            return Verdict(False, None, NO_LINE, address)
        return Verdict(line.decision is Decision.ALLOW, line, f"line {line.number}", address)


def denying(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Return the verdict that tells why a connection is denied; None when all allow it."""
    denied = [verdict for verdict in verdicts if not verdict.allowed]
    return min(denied, key=_place, default=None)


def _place(verdict: Verdict) -> tuple[bool, int]:
    if verdict.line is None:
        return verdict.why == NO_LINE, 0
    return False, verdict.line.number
