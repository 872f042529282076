"""Readers of variables that more than one part of the configuration has."""

from __future__ import annotations

from egress_router.config import fields
from egress_router.config.durations import EXPECTED_DURATION, duration
from egress_router.config.fields import Wrong
from egress_router.config.inputs import Inputs, Problems
from egress_router.model.addresses import Address, Family, family_of

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
    if isinstance(value, Wrong):
        problems.error(variable, None, text, value, EXPECTED_DURATION)
        return default
    return value


def source_addresses(inputs: Inputs, problems: Problems) -> dict[Family, Address]:
    """Read EGRESS_SOURCE as a proxy needs it: the addresses alone. config.router judges them more closely."""
    found: dict[Family, Address] = {}
    text = inputs.value("EGRESS_SOURCE") or ""
    for word in text.replace(",", " ").split():
        value = fields.interface_address(word)
        if isinstance(value, Wrong):
            problems.error("EGRESS_SOURCE", None, text, value, EXPECTED_SOURCE)
            continue
        family = family_of(value)
        if family in found:
            problems.error("EGRESS_SOURCE", None, text, f"has two {family} addresses", "one of each family")
        found[family] = value.ip
    return found
