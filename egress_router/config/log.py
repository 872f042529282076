"""EGRESS_LOG_FORMAT, EGRESS_LOG_LEVEL and EGRESS_ROUTER_DEBUG."""

from __future__ import annotations

from egress_router.config.inputs import Inputs, Problems
from egress_router.model.log import LogFormat, LogLevel, LogSettings


def parse_log(inputs: Inputs, problems: Problems, *, terminal: bool) -> LogSettings:
    """Return how to log: text on a terminal and JSON elsewhere unless said otherwise; debug when
    EGRESS_ROUTER_DEBUG has any value.
    """
    form = LogFormat.TEXT if terminal else LogFormat.JSON
    level = LogLevel.DEBUG if inputs.value("EGRESS_ROUTER_DEBUG") else LogLevel.INFO
    wanted_form, wanted_level = inputs.value("EGRESS_LOG_FORMAT"), inputs.value("EGRESS_LOG_LEVEL")
    if wanted_form is not None:
        try:
            form = LogFormat(wanted_form.lower())
        except ValueError:
            problems.error("EGRESS_LOG_FORMAT", None, wanted_form, "is not known", f"one of {', '.join(LogFormat)}")
    if wanted_level is not None:
        try:
            level = LogLevel(wanted_level.lower())
        except ValueError:
            problems.error("EGRESS_LOG_LEVEL", None, wanted_level, "is not known", f"one of {', '.join(LogLevel)}")
    return LogSettings(form, level)
