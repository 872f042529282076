"""EGRESS_HEALTH_PORT: where a process that stays answers probes and shows its figures."""

from __future__ import annotations

from egress_router.config import fields
from egress_router.config.fields import Wrong
from egress_router.config.inputs import Inputs, Problems
from egress_router.model.run import HEALTH_PORT

VARIABLE = "EGRESS_HEALTH_PORT"


def parse_health_port(inputs: Inputs, problems: Problems) -> int | None:
    """Return EGRESS_HEALTH_PORT, None for ``off``."""
    text = inputs.value(VARIABLE)
    if text is None:
        return HEALTH_PORT
    if text.lower() == "off":
        return None
    port = fields.port(text)
    if isinstance(port, Wrong):
        problems.error(VARIABLE, None, text, port, f"{fields.EXPECTED_PORT}, or off")
        return None
    return port


def yield_to(inputs: Inputs, problems: Problems, port: int | None, claim: str) -> int | None:
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
