"""What is believed about a name after each look-up: which addresses serve, and for how long without a new answer.

Pure: the outcome of a look-up and the clock go in, the new belief comes out.

- A new answer replaces the old one at once.
- "There is no such name" (or record) is believed after ``HOLD_NO`` seconds without a good answer: name servers that
  are being reloaded say so for a moment. (30 s is also HAProxy's ``hold nx``.)
- A failure (SERVFAIL, REFUSED, no reply) says nothing about the name, so the last good answer serves on for at most
  ``Terms.hold`` seconds (RFC 8767 calls this serving stale data).
- With a search list, an answer for a later candidate than the one in use counts only when every earlier one was denied
  for certain: a name server in trouble must not move connections to another host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from egress_router.config.values import Address, Family

HOLD_NO = 30.0
#: Seconds between two look-ups of a name, at least.
REFRESH_MIN = 1.0
#: Without an answer, the pause doubles from REFRESH_MIN to this.
RETRY_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How answers are used. Names are looked up again after their time to live, within REFRESH_MIN and ``refresh_max``
    seconds; ``hold`` is for how long (seconds) the last good answer serves while look-ups fail; more than ``most``
    addresses are not used at once. (An answer of 64 KiB could hold 4,000.)
    """

    refresh_max: float = 10.0
    hold: float = 3600.0
    most: int = 512


@dataclass(frozen=True, slots=True)
class Found:
    """Addresses of one family and their time to live in seconds."""

    addresses: frozenset[Address]
    ttl: float


@dataclass(frozen=True, slots=True)
class Nothing:
    """The name server is certain that there is no such name or no such record."""

    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable reply. ``silent``: no reply at all."""

    why: str
    silent: bool = False


Reply = Found | Nothing | Failed


@dataclass(frozen=True, slots=True)
class Tried:
    """The replies for one candidate, per family."""

    candidate: str
    replies: Mapping[Family, Reply]

    @property
    def found(self) -> bool:
        """Whether any family has an address."""
        return any(isinstance(reply, Found) for reply in self.replies.values())

    @property
    def silent(self) -> bool:
        """Whether some question got no reply at all."""
        return any(isinstance(reply, Failed) and reply.silent for reply in self.replies.values())

    @property
    def failed(self) -> str | None:
        """The first failure, None when every reply was certain."""
        return next((reply.why for reply in self.replies.values() if isinstance(reply, Failed)), None)


@dataclass(frozen=True, slots=True)
class Serving:
    """The addresses of one family that are in use, and when (monotonic seconds) they were last confirmed."""

    addresses: frozenset[Address]
    confirmed: float


@dataclass(frozen=True, slots=True)
class Belief:
    """What is in use for a name. ``problem`` says why the last look-up brought nothing new, "" when it did.

    ``failures`` counts look-ups in a row without an answer.
    """

    candidate: str | None = None
    serving: Mapping[Family, Serving] = field(default_factory=dict)
    problem: str = ""
    failures: int = 0
    refresh: float = 0.0

    @property
    def addresses(self) -> frozenset[Address]:
        """All addresses in use."""
        return frozenset[Address]().union(*(item.addresses for item in self.serving.values()))


def believe(old: Belief, tried: Sequence[Tried], now: float, terms: Terms) -> Belief:
    """Return the belief after a look-up that tried the candidates ``tried``, in order, up to the first answer."""
    answer, doubt = _answer(old, tried)
    if answer is None:
        return _without_answer(old, tried, doubt, now, terms)
    same = answer.candidate == old.candidate
    serving: dict[Family, Serving] = {}
    for family, reply in answer.replies.items():
        before = old.serving.get(family) if same else None
        if isinstance(reply, Found):
            serving[family] = Serving(reply.addresses, now)
        elif isinstance(reply, Failed) and before and now - before.confirmed < terms.hold:
            serving[family] = before
    ttl = min(reply.ttl for reply in answer.replies.values() if isinstance(reply, Found))
    refresh = min(max(ttl, REFRESH_MIN), terms.refresh_max)
    if answer.failed:
        # The family that failed is asked for again before what it had ends, and soon.
        ends = [item.confirmed + terms.hold - now for item in serving.values() if item.confirmed < now]
        refresh = min([refresh, RETRY_MAX, *ends])
    return Belief(answer.candidate, serving, answer.failed or "", 0, refresh)


def lapses(belief: Belief, terms: Terms) -> float | None:
    """Return when (monotonic seconds) something in use lapses if no answer comes; None when nothing is in use."""
    return min((item.confirmed + terms.hold for item in belief.serving.values()), default=None)


def without_lapsed(old: Belief, now: float, terms: Terms) -> Belief:
    """Return the belief while name servers let a look-up wait: what has lapsed serves no more."""
    kept = {family: item for family, item in old.serving.items() if now - item.confirmed < terms.hold}
    problem = old.problem or "no reply in time"
    return replace(old, candidate=old.candidate if kept else None, serving=kept, problem=problem)


def _answer(old: Belief, tried: Sequence[Tried]) -> tuple[Tried | None, str]:
    """Return the answer that counts, if any, and else the failure that makes the outcome uncertain, if any."""
    doubt = ""
    in_use_came_before = False
    for one in tried:
        if one.found:
            another_host = in_use_came_before and bool(old.addresses)
            return (None, doubt) if doubt and another_host else (one, "")
        in_use_came_before = in_use_came_before or one.candidate == old.candidate
        doubt = doubt or (f"{one.candidate} {one.failed}" if one.failed else "")
    return None, doubt


def _without_answer(old: Belief, tried: Sequence[Tried], doubt: str, now: float, terms: Terms) -> Belief:
    hold = terms.hold if doubt else min(HOLD_NO, terms.hold)
    kept = {family: item for family, item in old.serving.items() if now - item.confirmed < hold}
    denied = "; ".join(
        dict.fromkeys(
            f"{one.candidate} {reply.why}"
            for one in tried
            for reply in one.replies.values()
            if isinstance(reply, Nothing)
        )
    )
    failures = old.failures + 1
    refresh = min(REFRESH_MIN * 2.0 ** min(failures - 1, 8), RETRY_MAX)
    # A held answer ends on time, not at the next look-up after it.
    ends = [item.confirmed + hold - now for item in kept.values()]
    return Belief(
        old.candidate if kept else None, kept, doubt or denied or "no name to ask for", failures, min([refresh, *ends])
    )


def chosen(addresses: Iterable[Address], in_use: Iterable[Address], limit: int) -> tuple[Address, ...]:
    """Return at most ``limit`` of ``addresses`` in a stable order; with too many, those already in use stay."""
    preferred = set(in_use)
    ordered = sorted(addresses, key=lambda item: (item not in preferred, item.version, int(item)))
    return tuple(sorted(ordered[:limit], key=lambda item: (item.version, int(item))))
