"""Variables that several products share: switches, times, source addresses, health port, log."""

from __future__ import annotations

from enum import StrEnum

from egress_router.config import fields
from egress_router.config.fields import EXPECTED_DURATION, Invalid, duration
from egress_router.config.inputs import Inputs, Problems
from egress_router.config.values import Address, Family, family_of
from egress_router.records import dataclass

EXPECTED_SOURCE = "ADDRESS[/LENGTH], such as 192.0.2.46 or 192.0.2.46/24; one of each family"


def on_off(inputs: Inputs, problems: Problems, variable: str, *, default: bool = True) -> bool:
    """Read ``on`` or ``off``; what is neither is noted and is the default."""
    text = inputs.value(variable)
    if text is None or text.lower() not in ("on", "off"):
        if text is not None:
            problems.error(variable, None, text, "is not known", "on or off")
        return default
    return text.lower() == "on"


def seconds(inputs: Inputs, problems: Problems, variable: str, default: int, least: int, most: int) -> int:
    """Read a duration in whole seconds; what is none, or outside of the bounds, is noted and is the default."""
    text = inputs.value(variable)
    if text is None:
        return default
    value = duration(text, least, most)
    if isinstance(value, Invalid):
        problems.error(variable, None, text, value, EXPECTED_DURATION)
        return default
    return value


def shutdown_delay(inputs: Inputs, problems: Problems) -> int | None:
    """Read EGRESS_SHUTDOWN_DELAY: seconds for which one that leaves takes new connections although it says that it is
    not ready; None when it is not set.
    """
    variable = "EGRESS_SHUTDOWN_DELAY"
    return None if inputs.value(variable) is None else seconds(inputs, problems, variable, 0, 0, 3600)


def source_addresses(inputs: Inputs, problems: Problems) -> dict[Family, Address]:
    """Read EGRESS_SOURCE as a proxy needs it: the addresses alone. config.router judges them more closely."""
    found: dict[Family, Address] = {}
    text = inputs.value("EGRESS_SOURCE") or ""
    for word in text.replace(",", " ").split():
        value = fields.interface_address(word)
        if isinstance(value, Invalid):
            problems.error("EGRESS_SOURCE", None, text, value, EXPECTED_SOURCE)
            continue
        family = family_of(value)
        if family in found:
            problems.error("EGRESS_SOURCE", None, text, f"has two {family} addresses", "one of each family")
        found[family] = value.ip
    return found


VARIABLE = "EGRESS_HEALTH_PORT"
PAGE_HOSTS = "EGRESS_PAGE_HOSTS"
#: Its default: /healthz, /readyz and /metrics of every process that stays.
HEALTH_PORT = 9909


def parse_health_port(inputs: Inputs, problems: Problems) -> int | None:
    """Return EGRESS_HEALTH_PORT, None for ``off``."""
    text = inputs.value(VARIABLE)
    if text is None:
        return HEALTH_PORT
    if text.lower() == "off":
        return None
    port = fields.port(text)
    if isinstance(port, Invalid):
        problems.error(VARIABLE, None, text, port, f"{fields.EXPECTED_PORT}, or off")
        return None
    return port


def parse_page(inputs: Inputs, problems: Problems) -> bool:
    """Return EGRESS_PAGE: whether the health port has a page for people at `/`."""
    return on_off(inputs, problems, "EGRESS_PAGE")


def parse_page_hosts(inputs: Inputs, problems: Problems) -> tuple[str, ...]:
    """Return EGRESS_PAGE_HOSTS: by which names pages are served besides addresses and names that are ours anyway."""
    found = []
    for word in (inputs.value(PAGE_HOSTS) or "").replace(",", " ").split():
        name = fields.host_name(word)
        if isinstance(name, Invalid):
            problems.error(PAGE_HOSTS, None, word, name, "names, such as routers.example.com, without ports")
        else:
            found.append(name.text.removesuffix("."))
    return tuple(found)


def unclaimed_port(inputs: Inputs, problems: Problems, port: int | None, claim: str) -> int | None:
    """Return ``port``, or None when there is a ``claim`` ("line 3 of …") to it.

    The default gives way, with a warning: manifests that never heard of it go on. A port that was asked for is a
    problem.
    """
    if port is None or not claim:
        return port
    message = f"is claimed by {claim}"
    if inputs.value(VARIABLE):
        problems.error(VARIABLE, None, str(port), message, "a port that nothing else claims, or off")
    else:
        problems.warn(VARIABLE, None, str(port), f"{message}: there is no /healthz, /readyz or /metrics")
    return None


class LogFormat(StrEnum):
    """One line of text, or one JSON object, per event."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What is worth logging, and more."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Format and threshold of the log on standard error."""

    format: LogFormat
    level: LogLevel


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
