"""What all pages share: templates that escape everything, one style and one script.

Imported when a page is asked for: jinja2 costs some megabytes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from io import BytesIO

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined, Template
from markupsafe import Markup

from egress_router import __version__
from egress_router.daemon.page.assets import asset
from egress_router.daemon.page.level import Level
from egress_router.daemon.page.view import number

#: A page that nothing renews says so after this time; seconds.
STALE_SECONDS = 15
#: How often the page asks for news; seconds.
RENEW_SECONDS = 2
_SHARED = "egress_router.daemon.page"


@cache
def template(package: str, name: str) -> Template:
    """Return a template that lies in ``package``; it may import those of this one as ``page/NAME``."""
    loader = PrefixLoader({"page": PackageLoader(_SHARED, ""), "own": PackageLoader(package, "")})
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(age=age, clock=clock, number=number)
    environment.globals.update(
        levels=list(Level),
        version=__version__,
        style=Markup(asset("page.css")),  # noqa: S704 - a file of ours
        script=Markup(asset("page.js")),  # noqa: S704 - a file of ours
        renew=RENEW_SECONDS,
        stale=STALE_SECONDS,
    )
    return environment.get_template(f"own/{name}")


def rendered(page: Template, **values: object) -> str:
    """Return what a template makes of values. Long pages are many thousand pieces, which Template.render() has in
    memory all at once.
    """
    text = BytesIO()
    for piece in page.generate(**values):
        text.write(piece.encode())
    return text.getvalue().decode()


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
