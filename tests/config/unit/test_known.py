"""A misspelt variable must not pass in silence."""

from __future__ import annotations

from egress_router.config.inputs import KNOWN, Inputs, Problems, warn_unknown


def test_every_known_variable_is_silent() -> None:
    problems = Problems()
    warn_unknown(Inputs(dict.fromkeys(KNOWN, "x")), problems)
    assert problems.warnings == []


def test_unknown_variables() -> None:
    problems = Problems()
    warn_unknown(
        Inputs({"EGRESS_SOURCES": "x", "EGRESS_GATWAY": "x", "EGRESS_ZZZ": "x", "EGRESS_SOURCE": "x"}), problems
    )
    assert problems.errors == []
    assert [str(problem) for problem in problems.warnings] == [
        "EGRESS_GATWAY: is not a variable of ours (EGRESS_GATEWAY?)",
        "EGRESS_SOURCES: is not a variable of ours (EGRESS_SOURCE?)",
        "EGRESS_ZZZ: is not a variable of ours",
    ]
