"""How to log."""

from __future__ import annotations

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.settings import LogFormat, LogLevel, LogSettings, parse_log


@pytest.mark.parametrize(
    ("env", "terminal", "expected"),
    [
        ({}, True, LogSettings(LogFormat.TEXT, LogLevel.INFO)),
        ({}, False, LogSettings(LogFormat.JSON, LogLevel.INFO)),
        ({"EGRESS_LOG_FORMAT": "text"}, False, LogSettings(LogFormat.TEXT, LogLevel.INFO)),
        ({"EGRESS_LOG_FORMAT": " JSON "}, True, LogSettings(LogFormat.JSON, LogLevel.INFO)),
        ({"EGRESS_ROUTER_DEBUG": "0"}, True, LogSettings(LogFormat.TEXT, LogLevel.DEBUG)),
        ({"EGRESS_ROUTER_DEBUG": " "}, True, LogSettings(LogFormat.TEXT, LogLevel.INFO)),
        ({"EGRESS_LOG_LEVEL": "Error"}, True, LogSettings(LogFormat.TEXT, LogLevel.ERROR)),
        ({"EGRESS_LOG_LEVEL": "info", "EGRESS_ROUTER_DEBUG": "1"}, True, LogSettings(LogFormat.TEXT, LogLevel.INFO)),
    ],
)
def test_settings(env: dict[str, str], terminal: bool, expected: LogSettings) -> None:
    problems = Problems()
    assert parse_log(Inputs(env), problems, terminal=terminal) == expected
    assert problems.errors == []


def test_both_problems() -> None:
    problems = Problems()
    parse_log(Inputs({"EGRESS_LOG_FORMAT": "xml", "EGRESS_LOG_LEVEL": "trace"}), problems, terminal=True)
    assert [str(problem) for problem in problems.errors] == [
        'EGRESS_LOG_FORMAT: "xml" is not known (one of text, json)',
        'EGRESS_LOG_LEVEL: "trace" is not known (one of debug, info, warning, error)',
    ]
