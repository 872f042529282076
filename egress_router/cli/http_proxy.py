"""`egress-router http-proxy`: the entry point of the proxy container."""

from __future__ import annotations

import os

import click

from egress_router.cli.once import Verb
from egress_router.http_proxy.run import run_http_proxy
from egress_router.redirect.sources import cluster_networks


@click.command(
    "http-proxy",
    cls=Verb,
    short_help="Run the HTTP proxy router (Squid).",
    epilog="""
    \b
    Example:
      EGRESS_HTTP_PROXY_DESTINATION='*.example.com' egress-router http-proxy
    """,
)
def command() -> int:
    """Let HTTP clients reach what the policy allows: the entry point of the proxy container.

    Reads EGRESS_HTTP_PROXY_DESTINATION, or the file that EGRESS_HTTP_PROXY_DESTINATION_FILE names. SIGHUP or a change
    of the file reloads; SIGTERM lets transfers finish for EGRESS_SHUTDOWN_GRACE.
    """
    return run_http_proxy(os.environ, cluster_networks)
