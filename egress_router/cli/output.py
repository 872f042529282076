"""Small things that verbs print with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from egress_router.egressip.source.patch import write_atomically
from egress_router.errors import MOST_PROBLEMS, PlatformError, Problem


def print_json(value: Any) -> None:
    """Print a value as JSON for people and programs, piece by piece: it may be large."""
    encoding = sys.stdout.encoding or "utf-8"
    for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
        try:
            piece.encode(encoding)
        except UnicodeEncodeError:
            # A variable may hold any bytes, and the terminal may know fewer characters than we do.
            sys.stdout.write("".join(c if c.isascii() else json.dumps(c)[1:-1] for c in piece))
        else:
            sys.stdout.write(piece)
    sys.stdout.write("\n")
    sys.stdout.flush()


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
    """Print the first warnings on standard error, and how many more there are."""
    for warning in warnings[:MOST_PROBLEMS]:
        click.echo(f"warning: {warning}", err=True)
    if len(warnings) > MOST_PROBLEMS:
        click.echo(f"warning: and {len(warnings) - MOST_PROBLEMS} more", err=True)


def write_report(path: str, text: str) -> bool:
    """Write a report to a file, whole or not at all, or to standard output for ``-``; return whether it is a file.
    Raises PlatformError.
    """
    if path == "-":
        click.echo(text, nl=False)
        return False
    try:
        write_atomically(Path(os.path.abspath(path)), text)  # noqa: PTH100 - the file need not exist
    except OSError as error:
        raise PlatformError(f"{path} cannot be written: {error.strerror}") from error
    return True


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
