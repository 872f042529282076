"""The fleet as one HTML page, without anything from elsewhere. Pure."""

from __future__ import annotations

from egress_router.daemon.page.html import template
from egress_router.egressip.fleet.picture import draw
from egress_router.egressip.fleet.view import Fleet, matching


def fleet_page(fleet: Fleet, query: str = "", *, live: bool = True) -> str:
    """Return the page as HTML. ``query`` filters rows; one that is not ``live`` has no script."""
    shown = matching(fleet, query) if query.strip() else fleet
    return template("egress_router.egressip.fleet", "page.html.j2").render(
        fleet=fleet, shown=shown, picture=draw(shown), query=query, live=live
    )
