"""``egress-router report``: the page of the router or proxy that runs here as one file."""

from __future__ import annotations

import os
from urllib.parse import urlencode

import click

from egress_router.cli.once import Verb
from egress_router.cli.output import write_report
from egress_router.daemon import running
from egress_router.errors import PlatformError

#: A page of a long list takes its time on a busy machine; a router that does not make it in this one gives up, too.
PAGE_SECONDS = 60.0


@click.command(
    "report",
    cls=Verb,
    epilog="""
    \b
    Examples:
      egress-router report --html router.html
      kubectl exec deploy/shop -c router -- egress-router report --html - --redact >router.html
    """,
)
@click.option("--html", "path", required=True, metavar="FILE", help="The file to write; - for standard output.")
@click.option("--redact", is_flag=True, help="No names and addresses: each becomes a number, for a ticket.")
def command(path: str, *, redact: bool) -> int:
    """Write the page of the router or proxy that runs in this pod as one HTML file that needs nothing else.

    It is asked at its health port: destinations, what they carried in the last ten minutes, what is wrong, who was
    refused what, and what the last reload changed. For egress IPs see egress-router egressip report.
    """
    port = running.port_of(os.environ)
    if port is None:
        raise PlatformError("EGRESS_HEALTH_PORT is off here: a router without it has no page")
    query = urlencode({"report": "1"} | ({"redact": "1"} if redact else {}))
    body = running.page(f"/?{query}", port, PAGE_SECONDS)
    if body is None:
        raise PlatformError(
            f"no router answers with a page on port {port} of this pod; run it where `egress-router run` or a proxy "
            "runs, with EGRESS_PAGE not off"
        )
    if write_report(path, body.decode()):
        click.echo(f"{path}: {len(body)} bytes")
    return 0
