"""``egress-router status``."""

from __future__ import annotations

from typing import Any

import click

from egress_router.cli.output import print_json, table
from egress_router.cli.sources import read_pods, source_options
from egress_router.errors import UsageError
from egress_router.runtime.status import Status, read_status

DRIFT = 1


@click.command(
    "status",
    epilog="""
    \b
    Examples:
      egress-router status
      egress-router status -o json
    """,
)
@source_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(env_file: str | None, manifest: str | None, output: str) -> int:
    """Compare the desired state with the kernel's, and show the traffic of each destination line.

    Exit code 1 when they differ. Needs NET_ADMIN to read the rules, and NET_RAW too for those of iptables.
    """
    (source, pod), *others = read_pods(env_file, manifest)
    if others:
        names = ", ".join([source.name, *(other.name for other, _ in others)])
        raise UsageError(f"status compares one pod with the network it runs in, and the manifest has several: {names}")
    if pod.router is None:
        raise UsageError(f"{source.name} has no variables of the router (EGRESS_GATEWAY …)")
    status = read_status(pod.router)
    if output == "json":
        print_json(as_json(status))
    else:
        click.echo(as_text(status))
    return DRIFT if status.drift else 0


def as_json(status: Status) -> dict[str, Any]:
    """Return the status as plain values."""
    return {
        "state": "drift" if status.drift else "ok",
        "drift": list(status.drift),
        "egress_interface": status.egress,
        "backend": status.backend,
        "sources": [str(source) for source in status.sources],
        "destinations": [
            {
                "line": row.line,
                "rule": row.rule,
                "connections": row.counters.connections,
                "packets": row.counters.packets,
                "bytes": row.counters.bytes,
            }
            for row in status.rows
        ],
    }


def as_text(status: Status) -> str:
    """Return the status for a person: problems first, then the destinations."""
    sources = ", ".join(map(str, status.sources))
    lines = [f"leaving by {status.egress} with {sources} ({status.backend})"]
    if status.drift:
        lines = ["drift: the kernel is not as desired (- desired, + actual)", *(f"  {i}" for i in status.drift), *lines]
    else:
        lines[0] = "ok: " + lines[0]
    if status.rows:
        rows = [("LINE", "DESTINATION", "CONNECTIONS", "PACKETS", "BYTES")]
        for row in status.rows:
            counters = row.counters
            numbers = (str(counters.connections), str(counters.packets), str(counters.bytes))
            rows.append((str(row.line), row.rule, *numbers))
        lines += ["", table(rows)]
    return "\n".join(lines)
