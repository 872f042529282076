"""Requests for a policy, as many that it allows as that it denies, for every reason that there is."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest

from hypothesis import strategies as st

from egress_router.policy.evaluate import Verdict, evaluate, literal_address
from egress_router.policy.shadowed import shadowed_lines
from egress_router.policy.values import Address, Block, Decision, Name, Policy
from tests.http_proxy.unit.strategies import ADDRESSES, NAMES, NOWHERE, PORTS, REQUEST_PORTS, Request, policy_lines

#: What names mostly resolve to: nothing that is closed anyway.
PUBLIC = [
    text
    for text in ADDRESSES
    if text[:4] not in ("127.", "169.", "::1", "fe80", "fd00", "0.0.", "64:f", "2002") and "5efe" not in text
]
#: Of one policy's requests, at most so many that it allows, and as many that it denies.
PER_SIDE = 40

#: What each of the world's names resolves to: mostly one address, sometimes none or several, sometimes closed ones.
resolutions = st.lists(
    st.one_of(
        st.sampled_from(PUBLIC).map(lambda text: [text]),
        st.lists(st.sampled_from(PUBLIC), min_size=2, max_size=3, unique=True),
        st.lists(st.sampled_from([*PUBLIC, *PUBLIC, *ADDRESSES, *NOWHERE]), max_size=3, unique=True),
    ),
    min_size=len(NAMES),
    max_size=len(NAMES),
)
#: Policies that allow something.
policies = st.tuples(
    st.sampled_from(["", "!*.a.com", "!*.org", "!*.b.com:80"]),
    st.lists(policy_lines(), min_size=2, max_size=12),
    st.tuples(st.sampled_from(["*.com", "a.com", "192.0.2.0/24", "*.a.com", "0.0.0.0/0"]), st.sampled_from(PORTS)),
    st.sampled_from(["", "", "*", "*", "!*", "*:443"]),
).map(lambda parts: "\n".join([parts[0], *parts[1], "".join(parts[2]), parts[3]]))


#: Networks by the hundred that have nothing to do with each other.
FAR = [*(f"10.20.{number}.0/26" for number in range(160)), *(f"2001:db8:20:{number:x}::/64" for number in range(80))]


def many_lines(chance: random.Random) -> str:
    """Return a policy of more than a hundred address lines, nearly all denying, about different ports."""
    lines = []
    for network in chance.sample(FAR, chance.randint(120, 200)):
        ports = chance.choice(PORTS)
        target = f"[{network}]" if ports and ":" in network else network
        lines.append(chance.choice(["!"] * 9 + [""]) + target + ports)
    first = chance.choice(["", "a.com", "!*.b.com:80", "!b.com"])
    return "\n".join([first, *lines, chance.choice(["*", "*.com", "2001:db8::/32", "10.0.0.0/8\n*:443"])])


def many_addresses(chance: random.Random) -> list[list[str]]:
    """Return what each of the world's names resolves to: some addresses in the networks of ``many_lines``."""
    far = [network.replace(".0/26", ".9").replace("::/64", "::9") for network in FAR]
    return [chance.sample(far, chance.randint(1, 6)) + chance.sample(PUBLIC, chance.choice([0, 0, 1])) for _ in NAMES]


def world(resolved: Mapping[str, Iterable[str]], spellings: Iterable[str] = ()) -> list[Request]:
    """Return all requests: each name at each port, each address, and other ``spellings`` of addresses."""
    names: list[Request] = [
        (name, tuple(address for text in texts if (address := literal_address(text))), port)
        for name, texts in resolved.items()
        for port in REQUEST_PORTS
    ]
    return names + [(text, (), port) for text in [*ADDRESSES, *NOWHERE, *spellings] for port in REQUEST_PORTS]


def reason(policy: Policy, request: Request, verdict: Verdict, own: Sequence[Address]) -> str:
    """Return in a word or two why the reference decides as it does."""
    host, addresses, port = request
    if len({evaluate(policy, host, port, (address,), own).allowed for address in addresses}) > 1:
        return "some addresses of a name"
    others = (evaluate(policy, host, other, addresses, own) for other in REQUEST_PORTS if other != port)
    at_port = " at this port" if any(other.allowed != verdict.allowed for other in others) else ""
    target = verdict.line.target if verdict.line else None
    if isinstance(target, Block) or (verdict.line is None and verdict.address is not None and "closed" in verdict.why):
        return ("address" if literal_address(host) else "address of a name") + at_port
    if isinstance(target, Name):
        return ("sub-domain" if host != target.name else "name") + at_port
    return ("everything" if verdict.line else "nothing matches") + at_port


def deciding(policy: Policy, request: Request, server: Address | None, own: Sequence[Address]) -> set[int | None]:
    """Return the lines that the log may name (None: no line): that of the address which was connected to, or the first
    that denies an address. DNS need not be asked about a name that is denied whatever it resolves to; its line then
    is as true.
    """
    host, addresses, port = request
    verdict = evaluate(policy, host, port, addresses, own)
    if verdict.allowed:
        about = (server,) if server else ()
        return {_number(evaluate(policy, host, port, about, own))}
    alone = evaluate(policy, host, port, (), own)
    end = alone.line.number if alone.line else len(policy.lines) + 1
    never = {line.number for line, _ in shadowed_lines(policy)}
    may_allow = any(
        isinstance(line.target, Block) and line.decision is Decision.ALLOW and port in line.ports and line.number < end
        for line in policy.lines
        if line.number not in never
    )
    if alone.allowed or may_allow or literal_address(host):
        return {_number(verdict)}
    return {_number(verdict), _number(alone)}


def denying(policy: Policy, request: Request, own: Sequence[Address]) -> set[int | None]:
    """Return the lines that deny one of the addresses."""
    host, addresses, port = request
    verdicts = [evaluate(policy, host, port, (address,), own) for address in addresses]
    return {_number(verdict) for verdict in verdicts if not verdict.allowed}


def _number(verdict: Verdict) -> int | None:
    return verdict.line.number if verdict.line else None


@dataclass
class Proportions:
    """Counts what was asked, so that a generator that asks about one thing only fails."""

    counted: Counter[tuple[bool, str]] = field(default_factory=Counter)

    def choose(
        self, policy: Policy, asked: Iterable[Request], own: Sequence[Address], per_side: int = PER_SIDE
    ) -> list[tuple[Request, bool]]:
        """Return some requests with the reference's decisions, taken in turn from all reasons on both sides."""
        sides: dict[bool, dict[str, list[Request]]] = {True: defaultdict(list), False: defaultdict(list)}
        for request in asked:
            verdict = evaluate(policy, request[0], request[2], request[1], own)
            sides[verdict.allowed][reason(policy, request, verdict, own)].append(request)
        size = min(per_side, *(sum(map(len, side.values())) for side in sides.values())) + 2
        chosen = []
        for allowed, side in sides.items():
            in_turn = ((why, one) for turn in zip_longest(*side.values()) for why, one in zip(side, turn, strict=True))
            for why, request in islice(((why, one) for why, one in in_turn if one), size):
                self.counted[allowed, why] += 1
                chosen.append((request, allowed))
        return chosen

    def check(self) -> None:
        """Fail unless both sides, and every reason worth the name, were asked about often enough."""
        total = self.counted.total()
        for allowed in (True, False):
            side = {why: count for (which, why), count in self.counted.items() if which is allowed}
            assert sum(side.values()) >= 0.3 * total, self.counted
            for word in ("sub-domain", "address of a name", "at this port"):
                assert sum(count for why, count in side.items() if word in why) >= 0.01 * total, (allowed, word, side)
            assert allowed or side.get("some addresses of a name", 0) >= 0.01 * total, side
            assert side.get("address", 0) + side.get("address at this port", 0) >= 0.01 * total, (allowed, side)
