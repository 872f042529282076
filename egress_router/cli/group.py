"""The click group: verbs are imported when they are asked for."""

from __future__ import annotations

import click

from egress_router import __version__
from egress_router.cli import main as frame


class LazyGroup(click.Group):
    """A group whose commands are the modules of ``frame.VERBS``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(frame.VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, None when there is none of that name."""
        if cmd_name not in frame.VERBS:
            return None
        command = frame.load(cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: docs/exit-codes.md. Variables: docs/configuration.md.",
)
@click.version_option(__version__, prog_name="egress-router")
def cli() -> None:
    """Make traffic of pods leave the cluster with known source addresses.

    Every verb reads the EGRESS_* variables of its environment.
    """


def invoke(args: list[str]) -> int:
    """Run the command line; usage errors print click's text and give 2.

    Not by ``cli.main``: that ends the process with 1, our code for drift, when the reader of the output goes away.
    """
    try:
        with cli.make_context("egress-router", list(args)) as context:
            result = cli.invoke(context)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return frame.USAGE
    except click.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0
