"""The page of a router that stays (redirect, HTTP proxy, DNS proxy) as values. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from egress_router.daemon.engine import Counters
from egress_router.daemon.page.level import Level
from egress_router.daemon.page.numbers import Numbers
from egress_router.daemon.page.rates import STEP_SECONDS, STEPS
from egress_router.daemon.page.refusals import Refusal
from egress_router.daemon.page.words import fitting
from egress_router.records import dataclass, field, replace

#: The box of a small line, in pixels.
WIDTH, HEIGHT = 120, 20
#: Groups of clients that a form answers for where none is named.
MOST_REPLIES = 50

Group = TypeVar("Group")


@dataclass(frozen=True, slots=True)
class DestinationRow:
    """A line of the list: its number (None: several lines, or one of a former list), text, and how it fares.

    ``addresses`` are those that its name has now, ``age`` how long ago (seconds) the last good answer came, None where
    there is nothing to look up or no answer yet. ``count`` are connections or requests so far, ``size`` bytes so far,
    None where nobody counts them; ``rates`` the count's growth per second in each step of the last ten minutes.
    """

    line: int | None
    text: str
    level: Level = Level.FINE
    state: str = ""
    addresses: tuple[str, ...] = ()
    age: float | None = None
    count: int | None = None
    size: int | None = None
    rates: tuple[float, ...] = ()

    @property
    def now(self) -> float:
        """The growth per second in the last step."""
        return self.rates[-1] if self.rates else 0.0

    @property
    def points(self) -> str:
        """The growth as points of an SVG polyline, the newest at the right; "" where nothing grew."""
        top = max(self.rates, default=0.0)
        if top <= 0:
            return ""
        # One step alone would be a point, which nobody sees.
        rates = self.rates if len(self.rates) > 1 else (0.0, *self.rates)
        step = WIDTH / (STEPS - 1)
        first = WIDTH - step * (len(rates) - 1)
        return " ".join(
            f"{first + at * step:.0f},{HEIGHT - 1 - (HEIGHT - 2) * rate / top:.0f}" for at, rate in enumerate(rates)
        )

    @property
    def rates_text(self) -> str:
        """The growth in words, for those who do not see the line."""
        minutes = max(round(len(self.rates) * STEP_SECONDS / 60), 1)
        return f"{self.now:.1f} per second now, at most {max(self.rates):.1f} in {minutes} min" if self.rates else ""


@dataclass(frozen=True, slots=True)
class PartRow:
    """Something that the router needs or runs, such as a gateway, a peer or its engine."""

    name: str
    level: Level
    state: str


@dataclass(frozen=True, slots=True)
class ListChange:
    """What the last reload that was put in force has changed, as lines of the list."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Iterable[str], after: Iterable[str]) -> ListChange:
        """Return what is different between two lists, in the order of each."""
        old, new = list(before), list(after)
        had, has = set(old), set(new)
        return cls(tuple(line for line in new if line not in had), tuple(line for line in old if line not in has))


class ListHistory:
    """Remembers when the list in force was last another one (``at``, seconds since the epoch), and what changed."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.change = ListChange()
        self._lines: tuple[str, ...] | None = None

    def take(self, lines: Iterable[str]) -> None:
        """Take the list that is in force from now on."""
        fresh = tuple(lines)
        if self._lines is not None and fresh != self._lines:
            self.change, self.at = ListChange.between(self._lines, fresh), time.time()
        self._lines = fresh


@dataclass(frozen=True, slots=True)
class RouterView:
    """All that the page shows, as of ``made`` (seconds since the epoch).

    ``reasons`` say why it is not ready, ``warnings`` what else is wrong; ``figures`` are numbers with what they count;
    ``counted`` says what the rows count. ``reloaded`` is when the list was last changed (seconds since the epoch),
    ``refused`` why the one that is asked for now is not in force. ``standby``: it would take over from another one.
    """

    kind: str
    made: float
    figures: Sequence[tuple[str, str]] = ()
    reasons: Sequence[str] = ()
    warnings: Sequence[str] = ()
    counted: str = "connections"
    destinations: Sequence[DestinationRow] = ()
    parts: Sequence[PartRow] = ()
    refusals: Sequence[Refusal] | None = None
    reloaded: float | None = None
    change: ListChange = field(default_factory=ListChange)
    refused: str = ""
    standby: bool = False

    @property
    def level(self) -> Level:
        """Cut off when it is not ready, degraded when something else is wrong."""
        if self.reasons:
            return Level.CUT_OFF
        return Level.DEGRADED if self.warnings or self.refused else Level.FINE

    @property
    def state(self) -> str:
        """The level in words."""
        return {
            Level.CUT_OFF: "not ready",
            Level.DEGRADED: "ready, but not all is well",
            Level.FINE: "stands by" if self.standby else "ready",
        }[self.level]


def number(value: float) -> str:
    """Return a count with its thousands apart."""
    return f"{round(value):,}".replace(",", "\u202f")


def counted(totals: Mapping[str, int], text: str, others: str) -> int | None:
    """Return what a line has counted so far; None where ``others`` has what lines without figures of their own share,
    and it is one of these.
    """
    return totals.get(text, None if others in totals else 0)


def engine_row(name: str, counters: Counters) -> PartRow:
    """Return how the program that a proxy runs fares."""
    words = [f"generation {counters.generation}"]
    words += [f"{counters.draining} former ones drain"] * bool(counters.draining)
    words += [f"{counters.restarts} times it died and was started again"] * bool(counters.restarts)
    if not counters.ready:
        return PartRow(name, Level.CUT_OFF, "not in force")
    return PartRow(name, Level.FINE, "in force: " + ", ".join(words))


@dataclass(frozen=True, slots=True)
class Reply:
    """What would happen to a connection that was asked about; ``allowed`` is None where that depends."""

    allowed: bool | None
    text: str


#: Who asks, where a list has sections for clients.
CLIENT = "address, where it matters"


@dataclass(frozen=True, slots=True)
class AskForm:
    """What the form asks for: an example of a target, and who may ask ("" where that does not matter)."""

    example: str
    clients: str
    answer: Callable[[str, str], Sequence[Reply]]


def for_each(groups: Sequence[Group], reply: Callable[[Group], Reply]) -> list[Reply]:
    """Return a reply for each group of clients, the first MOST_REPLIES: each looks at a whole list."""
    found = [reply(group) for group in groups[:MOST_REPLIES]]
    if len(groups) > MOST_REPLIES:
        found.append(
            Reply(None, f"and {len(groups) - MOST_REPLIES} more groups of clients: ask for the address of one")
        )
    return found


def replies(form: AskForm | None, target: str, client: str) -> Sequence[Reply]:
    """Return the answers of a form; none where nothing was asked."""
    return form.answer(target, client) if form is not None and target else ()


def _is_number(text: str) -> bool:
    return text.replace("\u202f", "").isdecimal()


def matching(view: RouterView, words: str) -> RouterView:
    """Return only the rows in whose text each of the words occurs, whatever its case."""
    fits = fitting(words)
    refusals = view.refusals
    return replace(
        view,
        destinations=[
            row
            for row in view.destinations
            if fits(row.text, row.state, row.level.word, f"line {row.line}", *row.addresses)
        ],
        parts=[row for row in view.parts if fits(row.name, row.state, row.level.word)],
        refusals=None if refusals is None else [one for one in refusals if fits(one.client, one.target, one.why)],
    )


def redacted(view: RouterView) -> RouterView:
    """Return the view without a name or address: what is numbered stays, all other text that comes from outside is
    left out.
    """
    hidden = Numbers().of

    def count(lines: Sequence[str]) -> tuple[str, ...]:
        return tuple("left out" for _ in lines)

    refusals = view.refusals
    return replace(
        view,
        figures=[(value if _is_number(value) else "left out", text) for value, text in view.figures],
        reasons=count(view.reasons),
        warnings=count(view.warnings),
        destinations=[
            replace(
                row,
                text="left out",
                state=row.level.word if row.level is not Level.FINE else row.state,
                addresses=tuple(hidden("address", one) for one in row.addresses),
            )
            for row in view.destinations
        ],
        parts=[replace(row, name=row.name.partition(" ")[0], state=row.level.word) for row in view.parts],
        refusals=None
        if refusals is None
        else [
            replace(one, client=hidden("client", one.client), target=hidden("target", one.target), why="left out")
            for one in refusals
        ],
        change=ListChange(count(view.change.added), count(view.change.removed)),
        refused="left out" if view.refused else "",
    )
