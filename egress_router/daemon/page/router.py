"""The page of a router that stays as HTML. Pure."""

from __future__ import annotations

from jinja2 import Template

from egress_router.daemon.page.html import rendered, template
from egress_router.daemon.page.query import Query
from egress_router.daemon.page.view import HEIGHT, WIDTH, AskForm, RouterView, matching, redacted, replies

#: Rows of a table that are shown; the rest is counted, and found by the filter.
MOST_ROWS = 500
#: Lines of a reload that are shown of each kind.
MOST_CHANGES = 50


def router_template() -> Template:
    """Return the template, read once."""
    return template("egress_router.daemon.page", "router.html.j2")


def router_page(view: RouterView, query: Query, form: AskForm | None = None) -> str:
    """Return the page as HTML: what ``query`` filters and asks for, and by ``form`` what is answered."""
    live = not query.report
    if query.redact:
        view, form = redacted(view), None
    shown = matching(view, query.words) if query.words else view
    rows = sorted(shown.destinations, key=lambda row: row.level)
    return rendered(
        router_template(),
        view=view,
        shown=shown,
        rows=rows[:MOST_ROWS],
        more_rows=max(len(rows) - MOST_ROWS, 0),
        addresses=any(row.addresses or row.age is not None for row in view.destinations),
        sizes=any(row.size is not None for row in view.destinations),
        query=query,
        live=live,
        form=form if live else None,
        replies=replies(form, query.target, query.client),
        most=MOST_CHANGES,
        width=WIDTH,
        height=HEIGHT,
    )
