"""kd compare: options, and the tables of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import GateGroup, enforce_gates, make_gate_tables
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup, RunGroup
from kdcli.cli.runs import start_run

if TYPE_CHECKING:
    from kdcli.cli.console import Output
    from kdcli.runs.comparison_results import Comparison
    from kdcli.runs.results import Plan

Students = Annotated[
    list[Path] | None,
    typer.Option(
        "--student", metavar="FILE", help="Model file or run directory; repeatable.", rich_help_panel=o.COMMON
    ),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option("--recipe", metavar="R", help="Shipped name or path; repeatable.", rich_help_panel=o.COMMON),
]
Distilled = Annotated[
    list[Path] | None,
    typer.Option(
        "--distilled",
        metavar="RUN",
        help="Finished run to compare; only its baseline is trained.",
        rich_help_panel=o.COMMON,
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(
        "--repeats", metavar="N", min=1, help="Pairs of runs per arm; 3 by default.", rich_help_panel=o.COMMON
    ),
]


def command(
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    run: RunGroup,
    gates: GateGroup,
    teacher: o.Teacher = None,
    student: Students = None,
    recipe: Recipes = None,
    distilled: Distilled = None,
    repeats: Repeats = None,
    latency: o.Latency = True,
) -> None:
    """Compare distilled students with their baselines."""
    from kdcli.commands.compare import compare
    from kdcli.runs.results import Plan

    bounds = gates.read()
    with start_run(recipe_options, run, printing) as (output, options):
        options.update(part.to_options())
        result = compare(
            teacher=teacher,
            students=student or (),
            recipes=recipe or (),
            distilled=distilled or (),
            repeats=repeats,
            latency=latency,
            gates=bounds,
            **options,
        )
    _show(result, output)
    if not isinstance(result, Plan):
        enforce_gates(result.gates, strict=gates.strict_gates)


def _show(result: Comparison | Plan, output: Output) -> None:
    from kdcli.cli.console import format_plan
    from kdcli.runs.results import Plan

    document = result.to_json()
    if not isinstance(result, Plan):
        output.result(
            document,
            path=document["picked"],
            human=[*format_comparison(document), *make_gate_tables(result.gates)],
        )
        if document["picked"]:
            output.next_command(f"kd export {document['picked']} --format litert")
        return
    lines = [_describe_arm(arm) for arm in document["arms"]]
    output.result(
        document, human=[*lines, *format_plan(result, with_settings=output.verbose), "nothing was written"]
    )


def _describe_arm(arm: dict[str, Any]) -> str:
    time = "finished" if arm["seconds"] is None else f"about {arm['seconds']} s"
    return f"arm       {arm['name']}: {arm['runs']} run{'s' * (arm['runs'] != 1)}, {time}"


def format_comparison(document: dict[str, Any]) -> list[Any]:
    """The tables, the sentences below them, and the selected model."""
    from kdcli.cli.console import make_table
    from kdcli.comparison.tables import make_sentences, make_tables

    parts: list[Any] = [make_table(made.title, made.columns, made.rows) for made in make_tables(document)]
    return [*parts, *make_sentences(document), f"picked on validation: {document['picked']}"]
