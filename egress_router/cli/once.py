"""Options that have one value: given twice, the command line is refused instead of passing one of them over."""

from __future__ import annotations

import click

from egress_router.errors import printable


class Verb(click.Command):
    """A command whose options with one value are given once."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line. Raises click.UsageError, also for an option that is given twice and
        keeps one value alone: click would take the last. A flag may be given again, which changes nothing.
        """
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        given: list[click.Parameter] = []
        for parameter in order:
            one = isinstance(parameter, click.Option) and not (
                parameter.multiple or parameter.count or parameter.is_flag
            )
            if one and parameter in given:
                name = printable(max(parameter.opts, key=len))
                raise click.UsageError(f"{name} is given twice, and has one value: leave one out", ctx)
            given.append(parameter)
        return super().parse_args(ctx, args)


class VerbGroup(Verb, click.Group):
    """A group of such commands."""

    command_class = Verb
    group_class = type
