"""What `migrate` says about the old objects."""

from __future__ import annotations

from collections.abc import Sequence

import click

from egress_router.manifests.values import Note, NoteKind

#: Something of the old manifest has no place in the new one (EX_DATAERR of sysexits(3)).
LOSSES = 65


def print_notes(notes: Sequence[Note]) -> None:
    """Print what was wrong before what changed and what is lost, each once."""
    for kind in NoteKind:
        for note in dict.fromkeys(notes):
            if note.kind is kind:
                click.echo(str(note), err=True)


def exit_code(notes: Sequence[Note], *, accept_losses: bool) -> int:
    """Return the exit code: LOSSES where something is lost, unless that is accepted."""
    lost = any(note.kind is NoteKind.LOST for note in notes)
    return LOSSES if lost and not accept_losses else 0
