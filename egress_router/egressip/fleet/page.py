"""The fleet as one HTML page, without anything from elsewhere. Pure."""

from __future__ import annotations

from functools import cache

from egress_router.daemon.page.html import rendered, template
from egress_router.daemon.page.query import Query
from egress_router.daemon.page.view import AskForm, replies
from egress_router.egressip.fleet.legs import legs_text
from egress_router.egressip.fleet.picture import draw
from egress_router.egressip.fleet.view import Fleet, matching, redacted


def fleet_page(fleet: Fleet, query: Query | None = None, form: AskForm | None = None) -> str:
    """Return the page as HTML: what ``query`` filters and asks for, and by ``form`` what is answered."""
    query = query or Query()
    if query.redact:
        fleet, form = redacted(fleet), None
    shown = matching(fleet, query.words) if query.words else fleet
    return rendered(
        template("egress_router.egressip.fleet", "page.html.j2"),
        fleet=fleet,
        shown=shown,
        picture=draw(shown),
        query=query,
        live=not query.report,
        form=None if query.report else form,
        legs=cache(legs_text),
        replies=replies(form, query.target, query.client),
    )
