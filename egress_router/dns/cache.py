"""What is cached about a name after each look-up: which addresses serve, and for how long without a new answer.

Pure: the outcome of a look-up and the clock go in, the new entry comes out.

- A new answer replaces the old one at once.
- "There is no such name" (or record) is believed after ``HOLD_NEGATIVE`` seconds without a good answer: name servers
  that are being reloaded say so for a moment. (30 s is also HAProxy's ``hold nx``.)
- A failure (SERVFAIL, REFUSED, no reply) says nothing about the name, so the last good answer serves on for at most
  ``CachePolicy.hold`` seconds (RFC 8767 calls this serving stale data).
- With a search list, an answer for a later candidate than the one in use counts only when every earlier one was denied
  for certain: a name server in trouble must not move connections to another host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from egress_router.config.values import Address, Family, HostName
from egress_router.records import dataclass, field, replace

HOLD_NEGATIVE = 30.0
#: Seconds between two look-ups of a name, at least.
REFRESH_MIN = 1.0
#: Without an answer, the pause doubles from REFRESH_MIN to this.
RETRY_MAX = 5.0


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How answers are used. Names are looked up again after their time to live, within REFRESH_MIN and ``refresh_max``
    seconds; ``hold`` is for how long (seconds) the last good answer serves while look-ups fail; more than ``most``
    addresses are not used at once. (An answer of 64 KiB could hold 4,000.)
    """

    refresh_max: float = 10.0
    hold: float = 3600.0
    most: int = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """Addresses of one family and their time to live in seconds."""

    addresses: frozenset[Address]
    ttl: float


@dataclass(frozen=True, slots=True)
class NegativeAnswer:
    """The name server is certain that there is no such record, or even (``no_such_name``) no such name."""

    why: str
    no_such_name: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """No usable reply. ``silent``: no reply at all."""

    why: str
    silent: bool = False


Reply = Answer | NegativeAnswer | Failure


@dataclass(frozen=True, slots=True)
class CandidateReplies:
    """The replies for one candidate, per family."""

    candidate: str
    replies: Mapping[Family, Reply]

    @property
    def found(self) -> bool:
        """Whether any family has an address."""
        return any(isinstance(reply, Answer) for reply in self.replies.values())

    @property
    def silent(self) -> bool:
        """Whether some question got no reply at all."""
        return any(isinstance(reply, Failure) and reply.silent for reply in self.replies.values())

    @property
    def failed(self) -> str | None:
        """The first failure, None when every reply was certain."""
        return next((reply.why for reply in self.replies.values() if isinstance(reply, Failure)), None)


@dataclass(frozen=True, slots=True)
class ServingAddresses:
    """The addresses of one family that are in use, and when (monotonic seconds) they were last confirmed."""

    addresses: frozenset[Address]
    confirmed: float


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What is in use for a name. ``problem`` says why the last look-up brought nothing new, "" when it did.

    ``failures`` counts look-ups in a row without an answer.
    """

    candidate: str | None = None
    serving: Mapping[Family, ServingAddresses] = field(default_factory=dict)
    problem: str = ""
    failures: int = 0
    refresh: float = 0.0

    @property
    def addresses(self) -> frozenset[Address]:
        """All addresses in use."""
        return frozenset[Address]().union(*(item.addresses for item in self.serving.values()))

    def answered_as(self, name: HostName) -> str:
        """Return the full name that answered where that is not the name as it was written, else ""."""
        full = self.candidate or ""
        return "" if full.removesuffix(".") == name.text.removesuffix(".") else full


def updated(old: CacheEntry, tried: Sequence[CandidateReplies], now: float, policy: CachePolicy) -> CacheEntry:
    """Return the entry after a look-up that tried the candidates ``tried``, in order, up to the first answer."""
    answer, doubt = _answer(old, tried)
    if answer is None:
        return _without_answer(old, tried, doubt, now, policy)
    same = answer.candidate == old.candidate
    serving: dict[Family, ServingAddresses] = {}
    for family, reply in answer.replies.items():
        before = old.serving.get(family) if same else None
        if isinstance(reply, Answer):
            serving[family] = ServingAddresses(reply.addresses, now)
        elif isinstance(reply, Failure) and before and now - before.confirmed < policy.hold:
            serving[family] = before
    ttl = min(reply.ttl for reply in answer.replies.values() if isinstance(reply, Answer))
    refresh = min(max(ttl, REFRESH_MIN), policy.refresh_max)
    if answer.failed:
        # The family that failed is asked for again before what it had ends, and soon.
        ends = [item.confirmed + policy.hold - now for item in serving.values() if item.confirmed < now]
        refresh = min([refresh, RETRY_MAX, *ends])
    return CacheEntry(answer.candidate, serving, answer.failed or "", 0, refresh)


def expires_at(entry: CacheEntry, policy: CachePolicy) -> float | None:
    """Return when (monotonic seconds) something in use expires if no answer comes; None when nothing is in use."""
    return min((item.confirmed + policy.hold for item in entry.serving.values()), default=None)


def without_expired(old: CacheEntry, now: float, policy: CachePolicy) -> CacheEntry:
    """Return the entry without what has expired, while a look-up still waits for name servers."""
    kept = {family: item for family, item in old.serving.items() if now - item.confirmed < policy.hold}
    problem = old.problem or "no reply in time"
    return replace(old, candidate=old.candidate if kept else None, serving=kept, problem=problem)


def _answer(old: CacheEntry, tried: Sequence[CandidateReplies]) -> tuple[CandidateReplies | None, str]:
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


def _without_answer(
    old: CacheEntry, tried: Sequence[CandidateReplies], doubt: str, now: float, policy: CachePolicy
) -> CacheEntry:
    hold = policy.hold if doubt else min(HOLD_NEGATIVE, policy.hold)
    kept = {family: item for family, item in old.serving.items() if now - item.confirmed < hold}
    denied = "; ".join(
        dict.fromkeys(
            f"{one.candidate} {reply.why}"
            for one in tried
            for reply in one.replies.values()
            if isinstance(reply, NegativeAnswer)
        )
    )
    failures = old.failures + 1
    refresh = min(REFRESH_MIN * 2.0 ** min(failures - 1, 8), RETRY_MAX)
    # A held answer ends on time, not at the next look-up after it.
    ends = [item.confirmed + hold - now for item in kept.values()]
    return CacheEntry(
        old.candidate if kept else None, kept, doubt or denied or "no name to ask for", failures, min([refresh, *ends])
    )


def select_addresses(addresses: Iterable[Address], in_use: Iterable[Address], limit: int) -> tuple[Address, ...]:
    """Return at most ``limit`` of ``addresses`` in a stable order; with too many, those already in use stay."""
    preferred = set(in_use)
    ordered = sorted(addresses, key=lambda item: (item not in preferred, item.version, int(item)))
    return tuple(sorted(ordered[:limit], key=lambda item: (item.version, int(item))))
