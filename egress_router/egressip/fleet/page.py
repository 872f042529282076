"""The fleet as one HTML page, without anything from elsewhere. Pure."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from egress_router import __version__
from egress_router.egressip.fleet.picture import draw
from egress_router.egressip.fleet.view import Fleet, Level, matching

#: A page that nothing renews says so after this time; seconds.
STALE_SECONDS = 15
#: How often the page asks for news; seconds.
RENEW_SECONDS = 2


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("egress_router.egressip.fleet", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(age=age, clock=clock, number=number)
    return environment


@cache
def _text(name: str) -> str:
    loader = _environment().loader
    assert loader is not None  # noqa: S101 - set above
    return loader.get_source(_environment(), name)[0]


@cache
def _page() -> Template:
    return _environment().get_template("page.html.j2")


def fleet_page(fleet: Fleet, query: str = "", *, live: bool = True) -> str:
    """Return the page as HTML. ``query`` filters rows; one that is not ``live`` has no script."""
    shown = matching(fleet, query) if query.strip() else fleet
    return _page().render(
        fleet=fleet,
        shown=shown,
        picture=draw(shown),
        query=query,
        live=live,
        levels=list(Level),
        version=__version__,
        style=Markup(_text("page.css")),  # noqa: S704 - a file of ours
        script=Markup(_text("page.js")),  # noqa: S704 - a file of ours
        renew=RENEW_SECONDS,
        stale=STALE_SECONDS,
    )


def content_security_policy() -> str:
    """Return the header's value: nothing but our own style and script, by their hashes (CSP level 3)."""
    return (
        f"default-src 'none'; style-src 'sha256-{_hash('page.css')}'; script-src 'sha256-{_hash('page.js')}'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


@cache
def _hash(name: str) -> str:
    return base64.b64encode(hashlib.sha256(_text(name).encode()).digest()).decode()


def age(seconds: float) -> str:
    """Return a time span in the largest unit that fits, such as "40 s", "12 min", "3 h"."""
    if seconds < 0.5:
        return "now"
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < limit:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86400)} d"


def clock(at: float) -> str:
    """Return a moment as RFC 3339 text, for machines and for <time>."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number(value: int) -> str:
    """Return a count with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f")
