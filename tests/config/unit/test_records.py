"""Our data classes do what the standard library's do."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from egress_router import records


def shapes(dataclass: Any, field: Any) -> dict[str, Any]:
    """Return classes made with either library."""

    @dataclass(frozen=True, slots=True)
    class Point:
        """A point."""

        x: int
        y: int = 2
        note: str = field(default="", compare=False)
        secret: str = field(default="s", repr=False)

        @property
        def total(self) -> int:
            return self.x + self.y

    @dataclass(slots=True)
    class Counts:
        names: list[str] = field(default_factory=list)
        seen: int = field(default=3, init=False)
        limit: int = 5

        def __post_init__(self) -> None:
            self.seen += self.limit

    @dataclass(frozen=True, slots=True, order=True)
    class Ports:
        first: int
        last: int

    @dataclass(frozen=True, slots=True)
    class One:
        only: str

        def __str__(self) -> str:
            return self.only

    @dataclass(slots=True, eq=False)
    class Itself:
        value: int

    @dataclass
    class Plain:
        value: int = 1

    @dataclass(frozen=True, slots=True)
    class Empty:
        pass

    return {kind.__name__: kind for kind in (Point, Counts, Ports, One, Itself, Plain, Empty)}


OURS, THEIRS = shapes(records.dataclass, records.field), shapes(dataclasses.dataclass, dataclasses.field)


@pytest.mark.parametrize(
    "ask",
    [
        lambda k: (p := k["Point"](1)) and (p.x, p.y, p.note, p.secret, p.total, p == k["Point"](1, note="other")),
        lambda k: k["Point"](1, 3) == k["Point"](1, 4),
        lambda k: (k["Point"](1) == (1, 2, "", "s"), k["Point"](1) != k["One"]("1")),
        lambda k: hash(k["Point"](1)) == hash(k["Point"](1, note="n")) != hash(k["Point"](2)),
        lambda k: len({k["Point"](1), k["Point"](1, 2), k["One"]("a"), k["Empty"](), k["Empty"]()}),
        lambda k: repr(k["Point"](1, note="n")).rpartition(".")[2],
        lambda k: (str(k["One"]("text")), repr(k["One"]("text")).rpartition(".")[2], repr(k["Empty"]())[-7:]),
        lambda k: k["Point"](),
        lambda k: k["Point"](1, 2, 3, 4, 5),
        lambda k: k["Point"](1, x=2),
        lambda k: k["Point"](1, z=2),
        lambda k: setattr(k["Point"](1), "x", 2),
        lambda k: delattr(k["Point"](1), "x"),
        lambda k: setattr(k["Counts"](), "other", 2),
        lambda k: k["Counts"](["a"], 4).seen,
        lambda k: k["Counts"](seen=1),
        lambda k: k["Counts"]().names is k["Counts"]().names,
        lambda k: k["Counts"]() == k["Counts"]([], 5),
        lambda k: hash(k["Counts"]()),
        lambda k: sorted([k["Ports"](2, 1), k["Ports"](1, 9), k["Ports"](1, 2)])[0].last,
        lambda k: [f(k["Ports"](1, 2), k["Ports"](1, 3)) for f in (lt, le, gt, ge)],
        lambda k: k["Ports"](1, 2) < k["One"]("x"),
        lambda k: k["Itself"](1) == k["Itself"](1),
        lambda k: len({k["Itself"](1)}),
        lambda k: (k["Plain"].value, k["Plain"](2).value, vars(k["Plain"](2))),
        lambda k: dataclasses.replace(k["Point"](1, note="n"), y=7).y,
        lambda k: dataclasses.asdict(k["Point"](1)),
        lambda k: [(f.name, f.compare, f.repr, f.init, f.default) for f in dataclasses.fields(k["Point"])],
        lambda k: [f.name for f in dataclasses.fields(k["Counts"]())],
        lambda k: (k["Point"].__match_args__, k["Counts"].__match_args__, k["Point"].__doc__),
    ],
)
def test_same_as_the_standard_library(ask: Callable[[dict[str, Any]], Any]) -> None:
    def outcome(kinds: dict[str, Any]) -> object:
        try:
            return ask(kinds)
        except (TypeError, AttributeError) as error:
            return isinstance(error, TypeError), isinstance(error, dataclasses.FrozenInstanceError)

    assert outcome(OURS) == outcome(THEIRS)


def lt(a: Any, b: Any) -> bool:
    return bool(a < b)


def le(a: Any, b: Any) -> bool:
    return bool(a <= b)


def gt(a: Any, b: Any) -> bool:
    return bool(a > b)


def ge(a: Any, b: Any) -> bool:
    return bool(a >= b)


def test_no_new_attributes() -> None:
    """The standard library of Python 3.11 fails otherwise here: its super() does not know the class with slots."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        OURS["Point"](1).other = 2


def test_replace() -> None:
    point = OURS["Point"](1, note="n")
    changed = records.replace(point, y=7)
    assert (changed.x, changed.y, changed.note, point.y) == (1, 7, "n", 2)
    assert records.replace(point) == point
    with pytest.raises(TypeError):
        records.replace(point, z=1)


@records.dataclass(frozen=True, slots=True)
class Kept:
    """Stands in the module, where pickle looks."""

    value: int
    other: str = records.field(default="", compare=False)


def test_pickled() -> None:
    found = pickle.loads(pickle.dumps(Kept(1, "a")))  # noqa: S301 - our own
    assert (found, found.other) == (Kept(1), "a")
