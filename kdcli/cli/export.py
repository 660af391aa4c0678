"""kd export."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import GateGroup, enforce, gate_tables
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup

if TYPE_CHECKING:
    from kdcli.cli.console import Output
    from kdcli.runs.export_results import ExportResult

EXPORT = "Export"
Formats = Annotated[
    list[str],
    typer.Option(
        "--format",
        metavar="keras|saved-model|litert|onnx",
        help="What to write; repeatable.",
        rich_help_panel=EXPORT,
    ),
]
Quantize = Annotated[
    list[str] | None,
    typer.Option(
        "--quantize",
        metavar="none|float16|dynamic|int8",
        help="Of litert files; repeatable.",
        rich_help_panel=EXPORT,
    ),
]
Prepare = Annotated[
    str | None,
    typer.Option(
        "--prepare",
        metavar="inside|outside",
        help="Whether raw examples go in; inside with data.",
        rich_help_panel=EXPORT,
    ),
]
Io = Annotated[
    str | None,
    typer.Option(
        "--io",
        metavar="float32|uint8|int8",
        help="Both ends of litert files; raw bytes in, floats out.",
        rich_help_panel=EXPORT,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", metavar="N", min=1, help="The only batch size; any.", rich_help_panel=EXPORT),
]
OutputKind = Annotated[
    str,
    typer.Option(
        "--output-kind",
        metavar="teacher|probabilities|logits",
        help="What the files give; by default what the teacher's file gives.",
        rich_help_panel=EXPORT,
    ),
]
MaxAccuracyDrop = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop", metavar="F", help="Gate, against the run's teacher.", rich_help_panel=o.GATES
    ),
]
MaxExportDrop = Annotated[
    float | None,
    typer.Option(
        "--max-export-drop", metavar="F", help="Gate, against MODEL itself; 0.01.", rich_help_panel=o.GATES
    ),
]
MinGain = Annotated[
    float | None, typer.Option("--min-gain", metavar="F", help="Checked by kd compare.", rich_help_panel=o.GATES)
]
MinAgreement = Annotated[
    float | None,
    typer.Option("--min-agreement", metavar="F", help="Gate, with the run's teacher.", rich_help_panel=o.GATES),
]
MaxLatencyRatio = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ratio",
        metavar="F",
        help="Gate, against the run's teacher in the same format.",
        rich_help_panel=o.GATES,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ExportGateGroup(GateGroup):
    """Gates in the words of an export, whose teacher is that of the run."""

    max_accuracy_drop: MaxAccuracyDrop = None
    max_export_drop: MaxExportDrop = None
    min_gain: MinGain = None
    min_agreement: MinAgreement = None
    max_latency_ratio: MaxLatencyRatio = None


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="Model file or run directory.")],
    formats: Formats,
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    gates: ExportGateGroup,
    quantize: Quantize = None,
    prepare: Prepare = None,
    io: Io = None,
    batch: Batch = None,
    output_kind: OutputKind = "teacher",
    out: o.Out = None,
    recipe: o.RecipeOption = None,
    split: o.Split = "auto",
    latency: o.Latency = True,
    runtime: o.Runtime = None,
) -> None:
    """Write a model as files that ship, each compared with it."""
    from kdcli.commands.export import export

    bounds, output = gates.read(), printing.open()
    try:
        options = recipe_options.to_options(output)
        options.update(part.to_options())
        result = export(
            model,
            formats=formats,
            quantize=quantize or (),
            prepare=prepare,
            io=io,
            batch=batch,
            output_kind=output_kind,
            out=out,
            recipe=recipe,
            split=split,
            limit=recipe_options.number_of_examples(),
            latency=latency,
            runtime=runtime,
            gates=bounds,
            **options,
        )
    finally:
        output.close()
    _show(result, output, next_words=_next(model, data=recipe_options.data, recipe=recipe))
    _fail(result, output, strict=gates.strict_gates)


def _show(result: ExportResult, output: Output, *, next_words: Sequence[str]) -> None:
    document = result.to_json()
    output.result(document, path=_path(result), human=[_table(document), *gate_tables(result.gates)])
    lite = next((artifact for artifact in document["artifacts"] if artifact["format"] == "litert"), None)
    if lite is not None and lite["path"]:
        output.next_command(shlex.join(["kd", "evaluate", lite["path"], *next_words]))


def _fail(result: ExportResult, output: Output, *, strict: bool) -> None:
    """End with the exit code of the first file that was not written, else of the gates."""
    from kdcli.errors import ModelError

    for failure in result.failures:
        output.failed(ModelError(failure.message, hint=failure.hint))
    with suppress(typer.Exit) if result.failures else nullcontext():
        enforce(result.gates, strict=strict)
    if result.failures:
        raise typer.Exit(ModelError.exit_code)


def _path(exported: Any) -> str | None:
    from kdcli.runs.results import relativize_path

    return relativize_path(exported.path) if exported.path else None


def _table(document: dict[str, Any]) -> Any:
    from kdcli.cli.console import table

    rows = []
    for artifact in document["artifacts"]:
        output = f"{artifact['output']['kind']} {artifact['output']['dtype']}"
        cells = [str(artifact["bytes"]), _input(artifact["input"]), output, f"{artifact['max_abs_diff']:.2g}"]
        for name in ("agreement", "accuracy", "p50_ms"):
            cells.append("" if artifact[name] is None else f"{artifact[name]:.4f}")
        rows.append([artifact["path"] or f"{artifact['name']} (not left behind)", *cells])
    own = "" if document["accuracy"] is None else f", accuracy {document['accuracy']:.4f}"
    compared = (
        f"{document['examples']} examples, {document['split']} split" if document["split"] else "random inputs"
    )
    columns = ("file", "bytes", "input", "output", "largest difference", "agreement", "accuracy", "p50 ms")
    return table(f"beside {document['model']}{own}: {compared}", columns, rows)


def _input(taken: dict[str, Any]) -> str:
    """Shape, type and range of an input, and a fixed batch size."""
    shape = "×".join(str(side) for side in taken["shape"])
    limits = f" {taken['range'][0]:g} to {taken['range'][1]:g}" if taken["range"] else ""
    # The bytes 0 to 255 in a signed byte.
    shift = " minus 128" if limits and taken["dtype"] == "int8" else ""
    batch = f", {taken['batch']} at a time" if taken["batch"] else ""
    return f"{shape} {taken['dtype']}{limits}{shift}{batch}"


def _next(model: Path, *, data: str | None, recipe: str | None) -> list[str]:
    """How the next command names the data."""
    from kdcli.runs.directory import find_run_recipe

    run = find_run_recipe(model)
    words = ["--recipe", recipe or str(run)] if recipe or (run is not None and not data) else []
    return [*words, *(["--data", data] if data else [])]
