"""What the process that stays in this pod says, at its health port on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.settings import parse_health_port

SECONDS = 2.0


def page(path: str, env: Mapping[str, str] = os.environ) -> bytes | None:
    """Return a page of the running router or proxy; None when none runs here, or it has no such page."""
    port = parse_health_port(Inputs(dict(env)), Problems())
    if port is None:
        return None
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return body if answer.status == 200 else None


def status(env: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """Return what the running router or proxy says of itself; None when none runs here."""
    body = page("/status", env)
    try:
        value = json.loads(body) if body is not None else None
    except ValueError:
        return None
    return value if isinstance(value, dict) and "reasons" in value else None


def list_in_force(env: Mapping[str, str] = os.environ) -> str | None:
    """Return the destinations that the running redirect router has in force, line by line; None when none runs."""
    body = page("/list", env)
    return None if body is None else body.decode()
