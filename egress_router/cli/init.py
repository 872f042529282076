"""``egress-router init``."""

from __future__ import annotations

import os

import click

from egress_router.cli.once import Verb
from egress_router.redirect.init import run_init


@click.command(
    "init",
    cls=Verb,
    epilog="""
    \b
    Example:
      EGRESS_SOURCE=192.0.2.46 EGRESS_GATEWAY=192.0.2.1 EGRESS_ROUTER_MODE=init \\
      EGRESS_DESTINATION='8080 tcp 203.0.113.26 80' egress-router init
    """,
)
def command() -> int:
    """Make this pod an egress router, then exit (or stay, with EGRESS_ROUTER_MODE=legacy).

    The entry point of the privileged init container. Needs NET_ADMIN and NET_RAW. All settings are EGRESS_* variables:
    see docs/configuration.md. Safe to run again, and after a kill at any point.
    """
    return run_init(os.environ)
