"""A command class that refuses repeated single-value options, of which Typer silently drops one."""

from __future__ import annotations

import typer
from typer.core import TyperCommand

from kdcli.errors import UsageError


class SingleOptions(TyperCommand):
    """A command that refuses a second value for an option that takes one."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse the arguments.

        Raises:
            UsageError: an option with one value appears more than once.
        """
        if not ctx.resilient_parsing:
            _, _, parsed = self.make_parser(ctx).parse_args(args=list(args))
            for option in self.params:
                # A list takes every value, and a switch that is on twice is on.
                single = not (getattr(option, "multiple", True) or getattr(option, "is_flag", True))
                if single and sum(one is option for one in parsed) > 1:
                    name = max(option.opts, key=len)
                    raise UsageError(f"{name} is given more than once; it takes one value", hint=_help(ctx))
        return super().parse_args(ctx, args)


def _help(context: typer.Context) -> str:
    return f"{context.command_path} --help"
