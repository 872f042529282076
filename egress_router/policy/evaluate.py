"""What the policy means, written as simply as possible: the reference that the compiled policy is tested against.

A request is for a host and a port. A host name has the addresses that it resolves to. The policy decides about
each address on its own, first match wins, and the request is allowed when every address is: the proxy may connect
to any of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from egress_router.config.embedded_ipv4 import PREFIXES, embedded_ipv4, is_isatap
from egress_router.policy.ranges import spans
from egress_router.policy.values import (
    ALWAYS_CLOSED,
    NOWHERE,
    Address,
    Anything,
    Block,
    Decision,
    Name,
    Network,
    Policy,
    PolicyLine,
    from_number,
    to_block,
    to_number,
)

NO_LINE = "no line matches"
_PART = re.compile(r"0x([0-9a-f]*)|0([0-7]*)|([1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``line`` made the decision, or none did and ``why`` says what else; ``address`` is the one it is about."""

    allowed: bool
    line: PolicyLine | None
    why: str
    address: Address | None = None


#: Of the largest IPv4 address as one number.
MOST_DIGITS = 10


def literal_address(host: str) -> Address | None:
    """Return the address that a host in a URL is, None for a name.

    IPv4 in all spellings of inet_aton(3), which Squid understands: ``127.1``, ``0x7f000001``, ``017700000001``.
    IPv6 in or without brackets; a mapped IPv4 address is the IPv4 address.
    """
    bare = host.removeprefix("[").removesuffix("]")
    if ":" in bare:
        try:
            return from_number(to_number(IPv6Address(bare)))
        except AddressValueError:
            return None
    parts = bare.lower().split(".")
    if len(parts) > 4:
        return None
    numbers = []
    for part in parts:
        matched = _PART.fullmatch(part)
        if not matched:
            return None
        hexadecimal, octal, decimal = matched.groups()
        if hexadecimal is not None:
            numbers.append(int(hexadecimal or "0", 16))
        else:
            if decimal and len(decimal) > MOST_DIGITS:
                return None
            numbers.append(int(decimal) if decimal else int(octal or "0", 8))
    *heads, tail = numbers
    if any(head > 255 for head in heads) or tail >= 1 << (8 * (5 - len(numbers))):
        return None
    value = tail
    for place, head in enumerate(heads):
        value |= head << (8 * (3 - place))
    return IPv4Address(value)


def matches(line: PolicyLine, host: str | None, address: Address | None, port: int) -> bool:
    """Whether a line matches a host name (None for a literal), an address it has (None if it has none) and a port."""
    if port not in line.ports:
        return False
    target = line.target
    if isinstance(target, Anything):
        return True
    if isinstance(target, Name):
        return host is not None and (host == target.name or (target.subdomains and host.endswith("." + target.name)))
    return address is not None and _inside(target, address)


def _inside(block: Block, address: Address) -> bool:
    return any(first <= to_number(address) <= last for first, last in spans(block))


def closed(
    policy: Policy, address: Address, port: int, own: Iterable[Address], cluster: Iterable[Network] = ()
) -> str | None:
    """Return what a closed address is (loopback …); None when it is not closed or a line for exactly it opens it."""
    if to_number(address) in NOWHERE:
        return "no destination"
    own, blocks = list(own), [to_block(network) for network in cluster]
    exactly = Block(to_number(address), to_number(address))
    opening = [line for line in policy.lines if line.decision is Decision.ALLOW]
    if is_isatap(address):
        return None if any(line.target == exactly for line in opening) else "ISATAP"
    opening = [line for line in opening if port in line.ports]
    if any(line.target == exactly for line in opening):
        return None
    opened = [line.target for line in opening if line.target in blocks]
    if any(isinstance(block, Block) and _inside(block, address) for block in opened):
        return None
    what = _closed(address, own, blocks)
    if what is None and (inner := _carried(address)) is not None and (kind := _closed(inner, own, blocks)):
        what = f"{kind} ({inner} inside)"
    return what


def _closed(address: Address, own: Iterable[Address], cluster: Iterable[Block]) -> str | None:
    what = next((what for what, block in ALWAYS_CLOSED if _inside(block, address)), None)
    if what is None and any(to_number(address) == to_number(one) for one in own):
        what = "the pod's own address"
    if what is None and any(_inside(block, address) for block in cluster):
        what = "the cluster's network"
    return what


def _carried(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an address stands for in one of the forms whose place for it is known."""
    if not any(address in prefix for prefix in PREFIXES):
        return None
    (inner,) = embedded_ipv4(address)[-1:] or (None,)
    return inner


def evaluate(
    policy: Policy,
    host: str,
    port: int,
    addresses: Sequence[Address] = (),
    own: Sequence[Address] = (),
    cluster: Sequence[Network] = (),
) -> Verdict:
    """Decide about a request. ``addresses``: what the name resolves to, unused for a literal; ``own``: the pod's;
    ``cluster``: what its routes send into the cluster.

    Several addresses may be denied, each by a line: the first of these lines counts, a closed address before all.
    """
    plain = host.rstrip(".").lower()
    name: str | None = plain
    literal = literal_address(plain)
    if literal is not None:
        name, addresses = None, (literal,)
    verdicts = [_about(policy, name, address, port, own, cluster) for address in addresses or (None,)]
    return min((verdict for verdict in verdicts if not verdict.allowed), key=_place, default=verdicts[0])


def _place(verdict: Verdict) -> tuple[bool, int]:
    """Order denials: what is closed, then by line, and last what no line matches."""
    if verdict.line is None:
        return verdict.why == NO_LINE, verdict.address is not None and to_number(verdict.address) not in NOWHERE
    return False, verdict.line.number + 1


def _about(
    policy: Policy,
    name: str | None,
    address: Address | None,
    port: int,
    own: Sequence[Address],
    cluster: Sequence[Network],
) -> Verdict:
    if address is not None and (what := closed(policy, address, port, own, cluster)):
        return Verdict(False, None, f"{address} is closed: {what}", address)
    inner = None if address is None else _carried(address)
    for line in policy.lines:
        if matches(line, name, address, port):
            return Verdict(line.decision is Decision.ALLOW, line, f"line {line.number}", address)
        if inner is not None and isinstance(line.target, Block) and matches(line, None, inner, port):
            # The first line about the IPv4 address counts for the IPv6 one too where it denies.
            if line.decision is Decision.DENY:
                return Verdict(False, line, f"line {line.number}", address)
            inner = None
    return Verdict(False, None, NO_LINE, address)
