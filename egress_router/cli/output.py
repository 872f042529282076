"""Small things that verbs print with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from egress_router.errors import Problem


def print_json(value: Any) -> None:
    """Print a value as JSON for people and programs."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # A variable may hold any bytes, and the terminal may know fewer characters than we do.
        text = json.dumps(value, indent=2)
    click.echo(text)


def print_pods(found: Mapping[str, Any]) -> None:
    """Print what a verb has to say of each pod, text or values for JSON; with several pods, each under its name."""
    if len(found) == 1:
        (only,) = found.values()
        click.echo(only, nl=False) if isinstance(only, str) else print_json(only)
    elif all(isinstance(item, str) for item in found.values()):
        click.echo("\n".join(f"# {name}\n{text}" for name, text in found.items()), nl=False)
    else:
        print_json(found)


def print_warnings(warnings: Sequence[Problem]) -> None:
    """Print warnings on standard error."""
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns with two spaces between; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if cell.replace(" ", "").isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
