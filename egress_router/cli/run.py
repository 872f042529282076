"""``egress-router run``."""

from __future__ import annotations

import os

import click

from egress_router.cli.once import Verb
from egress_router.redirect.run import run_router


@click.command(
    "run",
    cls=Verb,
    epilog="""
    \b
    Example:
      EGRESS_SOURCE=192.0.2.46 EGRESS_GATEWAY=192.0.2.1 \\
      EGRESS_DESTINATION_FILE=/etc/egress/destinations egress-router run
    """,
)
def command() -> int:
    """Make this pod an egress router and stay: reload, repair, answer health probes.

    SIGHUP or a changed EGRESS_DESTINATION_FILE reloads the destinations; SIGTERM lets connections finish for
    EGRESS_SHUTDOWN_GRACE. Needs NET_ADMIN and NET_RAW. See docs/run.md.
    """
    return run_router(os.environ)
