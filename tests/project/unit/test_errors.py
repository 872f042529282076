"""The texts of problems, and the exit codes."""

from __future__ import annotations

import re

import pytest

from egress_router import errors
from egress_router.errors import ConfigurationError, Problem, ToolFailed, printable


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("V", None, "", "is not set"), "V: is not set"),
        (Problem("V", None, "x", "is not known", "one of a, b"), 'V: "x" is not known (one of a, b)'),
        (Problem("V", 3, "80 tcp", "has 2 words"), 'V line 3: "80 tcp" has 2 words'),
        (Problem("V", 3, "0 tcp x", '"0" is not a port'), 'V line 3: "0 tcp x": "0" is not a port'),
        (Problem("V", 3, "0", '"0" is not a port', "1 to 9"), 'V line 3: "0" is not a port (1 to 9)'),
        (Problem("V", None, "a\x1b\n\udcff", "is bad"), 'V: "a\\x1b\\n\\udcff" is bad'),
    ],
)
def test_problem(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_printable_is_cut() -> None:
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 200 + "…"


def test_problems_stand_variable_by_variable_and_line_by_line() -> None:
    found = [
        Problem("B", 9, "", "b9"),
        Problem("A", None, "", "a"),
        Problem("B", 10, "", "b10"),
        Problem("B", 2, "", "b2"),
        Problem("B", None, "", "b"),
    ]
    error = ConfigurationError(found)
    assert [p.message for p in error.problems] == ["b", "b2", "b9", "b10", "a"]
    assert str(error).splitlines() == [
        "5 problems in the configuration; nothing was changed",
        "  B: b",
        "  B line 2: b2",
        "  B line 9: b9",
        "  B line 10: b10",
        "  A: a",
    ]
    assert str(ConfigurationError(found[:1])).startswith("1 problem in the configuration")


def test_tool_failed_keeps_command_and_stderr() -> None:
    error = ToolFailed(["nft", "-f", "-"], 1, "syntax error\n")
    assert str(error) == "`nft -f -` failed (1): syntax error"
    assert str(ToolFailed(["x"], "signal 9", "")) == "`x` failed (signal 9): no error text"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("EgressRouterError", 70),
        ("ConfigurationError", 78),
        ("UsageError", 2),
        ("PlatformError", 69),
        ("ToolFailed", 69),
        ("CapabilityError", 77),
        ("TryAgainError", 75),
        ("AddressInUse", 75),
        ("StateMismatch", 75),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code
    drawn = re.search(rf"{name}\s+(\d+)", errors.__doc__ or "")
    assert drawn is not None
    assert int(drawn[1]) == code
