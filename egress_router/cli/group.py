"""The click group: verbs are imported when they are asked for."""

from __future__ import annotations

from importlib import import_module

import click

from egress_router import __version__
from egress_router.errors import PlatformError, UsageError

#: verb → module with a click command named ``command``
VERBS = {
    "init": "egress_router.cli.init",
    "run": "egress_router.cli.run",
    "http-proxy": "egress_router.cli.http_proxy",
    "dns-proxy": "egress_router.cli.dns_proxy",
    "check": "egress_router.cli.check",
    "plan": "egress_router.cli.plan",
    "explain": "egress_router.cli.explain",
    "status": "egress_router.cli.status",
    "report": "egress_router.cli.report",
    "manifests": "egress_router.cli.manifests",
    "migrate": "egress_router.cli.migrate",
    "egressip": "egress_router.cli.egressip",
    "node": "egress_router.cli.node",
}


def load(verb: str) -> object:
    """Return the click command of ``verb``."""
    return import_module(VERBS[verb]).command


def _of_linux(verb: str, error: ImportError) -> click.Command:
    """Return a command in the place of one that this system cannot import: laptops have `check`, `explain`,
    `manifests` and `migrate`.
    """

    def refuse() -> None:
        raise PlatformError(f"`egress-router {verb}` is for Linux ({error})")

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(verb, callback=refuse, context_settings=settings, short_help="For Linux.")


class LazyGroup(click.Group):
    """A group whose commands are the modules of ``VERBS``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, None when there is none of that name."""
        if cmd_name not in VERBS:
            return None
        try:
            command = load(cmd_name)
        except ImportError as error:
            # Imported only then: every pod would wait for it.
            import platform

            if platform.system() == "Linux":
                raise
            return _of_linux(cmd_name, error)
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
        return UsageError.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0
