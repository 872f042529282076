"""A router's page at `/` of its health port."""

from __future__ import annotations

from collections.abc import Callable

from egress_router.daemon.page.assets import HTML, Answer, html_headers
from egress_router.daemon.page.query import parse_query
from egress_router.daemon.page.view import AskForm, RouterView


def router_pages(
    view: Callable[[], RouterView], form: Callable[[], AskForm | None] = lambda: None
) -> dict[str, Callable[[str], Answer]]:
    """Return the page for an Endpoint: ``view`` is asked for each, ``form`` says what is in force to be asked."""

    def answer(query: str) -> Answer:
        # Only then: jinja2 costs some megabytes, and most routers are looked at by machines alone.
        from egress_router.daemon.page.router import router_page

        return 200, HTML, router_page(view(), parse_query(query), form()).encode()

    return {"/": answer}


def load() -> None:
    """Read all files that pages need while they can be read: for a process that is about to become another user."""
    from egress_router.daemon.page.router import router_template

    router_template()
    html_headers()
