"""What the router or proxy that stays in this pod says, asked at its health port on loopback (daemon/endpoint.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.settings import parse_health_port

SECONDS = 2.0


def port_of(env: Mapping[str, str]) -> int | None:
    """Return the port that a process with this environment has its pages at; None for none."""
    return parse_health_port(Inputs(dict(env)), Problems())


def page(path: str, port: int | None, seconds: float = SECONDS) -> bytes | None:
    """Return a page; None when nobody answers within ``seconds``, or there is no such page."""
    if port is None:
        return None
    connection = HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return body if answer.status == 200 else None


def status(port: int | None) -> dict[str, Any] | None:
    """Return what the running router or proxy says of itself; None when none runs here."""
    body = page("/status", port)
    try:
        value = json.loads(body) if body is not None else None
    except ValueError:
        return None
    return value if isinstance(value, dict) and "reasons" in value else None


def list_in_force(port: int | None) -> str | None:
    """Return the destinations that the running redirect router has in force, line by line; None when none runs."""
    body = page("/list", port)
    return None if body is None else body.decode()
