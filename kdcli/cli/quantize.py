"""kd quantize: options, and the table of the files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdcli.cli import options as o
from kdcli.cli.file_tables import format_files
from kdcli.cli.gates import GateReader, enforce_gates, make_gate_tables
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup, RunGroup
from kdcli.cli.runs import start_run

if TYPE_CHECKING:
    from kdcli.cli.console import Output
    from kdcli.runs.quantization_results import Quantization
    from kdcli.runs.results import Plan


MaxExportDrop = Annotated[
    float | None,
    typer.Option(
        "--max-export-drop",
        metavar="F",
        help="Gate on the drop from the student in float32.",
        rich_help_panel=o.GATES,
    ),
]


@dataclass(frozen=True, kw_only=True)
class QuantizeGateGroup(GateReader):
    """Options for gates on the 8-bit file."""

    gate: o.GateOption = None
    min_accuracy: o.MinAccuracy = None
    max_export_drop: MaxExportDrop = None
    max_size_mb: o.MaxSizeMb = None
    strict_gates: o.StrictGates = False


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="Keras file or run directory.")],
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    run: RunGroup,
    gates: QuantizeGateGroup,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", metavar="FILE", help="Teacher besides MODEL; the run's by default.")
    ] = None,
    recipe: o.RecipeOption = None,
) -> None:
    """Train a finished student with the rounding of its 8-bit file (QAT)."""
    from kdcli.commands.quantize import quantize

    bounds = gates.read()
    with start_run(recipe_options, run, printing) as (output, options):
        options.update(part.to_options())
        result = quantize(model, teacher=teacher, recipe=recipe, gates=bounds, **options)
    _show(result, output, strict=gates.strict_gates)


def _show(result: Quantization | Plan, output: Output, *, strict: bool) -> None:
    from kdcli.cli.console import format_plan
    from kdcli.runs.results import Plan

    document = result.to_json()
    if isinstance(result, Plan):
        output.result(document, human=[*format_plan(result, with_settings=output.verbose), "nothing was written"])
        return
    output.result(
        document, path=document["path"], human=[*format_files(document), *make_gate_tables(result.gates)]
    )
    output.next_command(
        shlex.join(["kd", "evaluate", document["path"], "--recipe", f"{document['run']}/recipe.yaml"])
    )
    enforce_gates(result.gates, strict=strict)
