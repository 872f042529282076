"""Options that verbs about egress IPs share."""

from __future__ import annotations

from pathlib import Path

import click

STATE_OPTION = click.option(
    "--state",
    "state",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="EGRESS_STATE_DIR",
    default=Path("/var/lib/egress-router/state"),
    show_default=True,
    help="Directory with the cluster's objects (YAML or JSON); EGRESS_STATE_DIR sets it too.",
)
HEALTH_PORT_OPTION = click.option(
    "--health-port", type=click.IntRange(1, 65535), default=4791, show_default=True, help="UDP, between agents."
)
