"""Requests for a policy, as many that it allows as that it denies, for every reason that there is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest

from hypothesis import strategies as st

from egress_router.model.http_policy import Address, Block, HttpPolicy, Name
from egress_router.plan.http_evaluate import Verdict, evaluate, literal_address
from tests.unit.http.strategies import ADDRESSES, NAMES, NOWHERE, PORTS, REQUEST_PORTS, Request, policy_lines

#: What names mostly resolve to: nothing that is closed anyway.
PUBLIC = [text for text in ADDRESSES if text[:4] not in ("127.", "169.", "::1", "fe80", "fd00", "0.0.", "64:f")]
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


def world(resolved: Mapping[str, Iterable[str]], spellings: Iterable[str] = ()) -> list[Request]:
    """Return all requests: each name at each port, each address, and other ``spellings`` of addresses."""
    names: list[Request] = [
        (name, tuple(address for text in texts if (address := literal_address(text))), port)
        for name, texts in resolved.items()
        for port in REQUEST_PORTS
    ]
    return names + [(text, (), port) for text in [*ADDRESSES, *NOWHERE, *spellings] for port in REQUEST_PORTS]


def reason(policy: HttpPolicy, request: Request, verdict: Verdict, own: Sequence[Address]) -> str:
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


@dataclass
class Proportions:
    """Counts what was asked, so that a generator that asks about one thing only fails."""

    counted: Counter[tuple[bool, str]] = field(default_factory=Counter)

    def choose(
        self, policy: HttpPolicy, asked: Iterable[Request], own: Sequence[Address]
    ) -> list[tuple[Request, bool]]:
        """Return some requests with the reference's decisions, taken in turn from all reasons on both sides."""
        sides: dict[bool, dict[str, list[Request]]] = {True: defaultdict(list), False: defaultdict(list)}
        for request in asked:
            verdict = evaluate(policy, request[0], request[2], request[1], own)
            sides[verdict.allowed][reason(policy, request, verdict, own)].append(request)
        size = min(PER_SIDE, *(sum(map(len, side.values())) for side in sides.values())) + 2
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
