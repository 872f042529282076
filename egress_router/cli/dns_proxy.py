"""``egress-router dns-proxy``: PID 1 of the DNS proxy container."""

from __future__ import annotations

import os

import click

from egress_router.cli.once import Verb
from egress_router.dns_proxy.run import run_dns_proxy
from egress_router.redirect.sources import cluster_networks, egress_sources


@click.command("dns-proxy", cls=Verb, short_help="Run the DNS proxy router (HAProxy).")
def command() -> int:
    """Forward TCP connections to names, leaving with EGRESS_SOURCE: the entry point of the DNS proxy container.

    Reads EGRESS_DNS_PROXY_DESTINATION, or the file that EGRESS_DNS_PROXY_DESTINATION_FILE names. SIGHUP or a change of
    the file reloads; SIGTERM lets connections finish for EGRESS_SHUTDOWN_GRACE.

    \b
    Example:
      EGRESS_DNS_PROXY_DESTINATION='8080 example.com 80' egress-router dns-proxy
    """  # noqa: D301  # click wants the character
    return run_dns_proxy(os.environ, egress_sources, cluster_networks)
