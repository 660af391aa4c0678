"""Options of the commands, from the Typer app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from kdcli.cli.app import app
from kdcli.cli.options import FOREIGN
from writers.markdown import table

ROOT: Any = typer.main.get_command(app)


def command_table() -> str:
    """Every command with its one-line help."""
    rows = [
        [f"[`kd {name}`](commands/{name}.md)", command.get_short_help_str(200)]
        for name, command in ROOT.commands.items()
    ]
    return table(["command", "purpose"], rows)


def option_tables(name: str) -> str:
    """All options of a command, a table for each panel of its help; of a group, a section for each subcommand."""
    command = ROOT.commands[name]
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        return "\n".join(_panels(command, heading="###"))
    parts = []
    for subname, one in subcommands.items():
        usage = " ".join(["kd", name, subname, *(_metavar(p) for p in one.params if _is_argument(p))])
        parts += [f"### kd {name} {subname}", "", f"`{usage}`: {one.help}", "", *_panels(one, heading="")]
    return "\n".join(parts)


def foreign_table() -> str:
    """Words from other tools, with what `kd` calls them."""
    return table(["typed", "in kd"], [[f"`{word}`", meaning] for word, meaning in FOREIGN.items()])


def _panels(command: Any, *, heading: str) -> Iterator[str]:
    panels: dict[str, list[list[str]]] = {}
    for parameter in command.params:
        if "--help" in parameter.opts:
            continue
        panel = getattr(parameter, "rich_help_panel", None) or (
            "Arguments" if _is_argument(parameter) else "Options"
        )
        panels.setdefault(panel, []).append(_row(parameter))
    for panel, rows in panels.items():
        if heading:
            yield f"{heading} {panel}\n"
        yield table(["option", "takes", "default", "meaning"], rows)


def _row(parameter: Any) -> list[str]:
    if _is_argument(parameter):
        return [f"`{_metavar(parameter)}`", "", "", _help(parameter)]
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    takes = "" if parameter.is_flag else f"`{_metavar(parameter)}`"
    default = parameter.default
    shown = "" if default is None or default is False or callable(default) else str(default)
    if parameter.secondary_opts:
        shown = parameter.opts[0] if default else parameter.secondary_opts[0]
    return [names, takes, f"`{shown}`" if shown else "", _help(parameter)]


def _is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.type.name.upper())


def _help(parameter: Any) -> str:
    required = " Required." if parameter.required and not _is_argument(parameter) else ""
    return f"{parameter.help or ''}{required}"
