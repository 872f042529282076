"""Play scenes of the demo and say how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from lab.process import CommandFailed
from lab.scenes import Scene
from lab.stage import Stage

FAILED = 1


def play(scenes: Mapping[str, Scene], names: Sequence[str], shape: str, backend: str) -> int:
    """Play the scenes called ``names`` (all, if none), each in a lab of its own; return 0 when every claim held.

    ``shape`` is one of cni.SHAPES, ``backend`` a value of EGRESS_NAT_BACKEND.
    """
    failed: list[str] = []
    held = 0
    chosen = list(names) or list(scenes)
    for name in chosen:
        stage = Stage(shape, backend)
        click.secho(f"\n#### {name}: {scenes[name].TITLE}", bold=True)
        try:
            scenes[name].play(stage)
        except CommandFailed as error:
            stage.claim(f"a command of the scene works: {error}", held=False)
        held += len(stage.held)
        failed += [f"{name}: {what}" for what in stage.failed]
    click.echo()
    if failed:
        click.secho(f"NOT as claimed ({len(failed)} of {held + len(failed)}):", fg="red", bold=True)
        for what in failed:
            click.echo(f"  {what}")
        return FAILED
    click.secho(f"Shown: {', '.join(chosen)}. All {held} claims held ({shape} pods).", fg="green", bold=True)
    return 0
