"""kd export: options, and the table of exported files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import GateGroup, enforce_gates, make_gate_tables
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup
from kdcli.events import Note

if TYPE_CHECKING:
    from kdcli.cli.console import Output, Table
    from kdcli.runs.export_results import ExportResult

EXPORT = "Export"
Formats = Annotated[
    list[str],
    typer.Option(
        "--format",
        metavar="keras|saved-model|litert|onnx|micro|web|all",
        help="Format of the files; repeatable.",
        rich_help_panel=EXPORT,
    ),
]
Quantize = Annotated[
    list[str] | None,
    typer.Option(
        "--quantize",
        metavar="none|float16|dynamic|int8|int8x16|int4|int4-weights|mixed",
        help="Quantization of litert files; repeatable.",
        rich_help_panel=EXPORT,
    ),
]
Prepare = Annotated[
    str | None,
    typer.Option(
        "--prepare",
        metavar="inside|outside",
        help="Preprocessing inside the file (default with data) or outside.",
        rich_help_panel=EXPORT,
    ),
]
Io = Annotated[
    str | None,
    typer.Option(
        "--io",
        metavar="float32|uint8|int8",
        help="Input and output type of litert files.",
        rich_help_panel=EXPORT,
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch", metavar="N", min=1, help="Fixed batch size; any by default.", rich_help_panel=EXPORT),
]
OutputKindOption = Annotated[
    str,
    typer.Option(
        "--output-kind",
        metavar="teacher|probabilities|logits",
        help="Output of the files; by default that of the teacher's file.",
        rich_help_panel=EXPORT,
    ),
]
WebRuntime = Annotated[
    Path | None,
    typer.Option(
        "--web-runtime",
        metavar="DIR",
        help="node_modules with @litertjs/core, to copy into web folders.",
        rich_help_panel=EXPORT,
    ),
]
Pick = Annotated[
    str | None,
    typer.Option(
        "--pick",
        metavar="smallest|fastest|best",
        help="Pick one of the files that pass; --quiet prints its path.",
        rich_help_panel=EXPORT,
    ),
]
MaxTeacherDrop = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop",
        metavar="F",
        help="Gate on the drop from the run's teacher.",
        rich_help_panel=o.GATES,
    ),
]
MaxExportDrop = Annotated[
    float | None,
    typer.Option(
        "--max-export-drop",
        metavar="F",
        help="Gate on the drop from MODEL itself; 0.01 by default.",
        rich_help_panel=o.GATES,
    ),
]
UncheckedMinGain = Annotated[
    float | None,
    typer.Option("--min-gain", metavar="F", help="Gate that only kd compare checks.", rich_help_panel=o.GATES),
]
MinTeacherAgreement = Annotated[
    float | None,
    typer.Option(
        "--min-agreement", metavar="F", help="Gate on agreement with the run's teacher.", rich_help_panel=o.GATES
    ),
]
MaxTeacherRatio = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ratio",
        metavar="F",
        help="Gate on latency relative to the run's teacher, same format.",
        rich_help_panel=o.GATES,
    ),
]

MaxRamKb = Annotated[
    float | None,
    typer.Option(
        "--max-ram-kb",
        metavar="KB",
        help="Gate on the tensor arena of micro files; 1 KB is 1,024 bytes.",
        rich_help_panel=o.GATES,
    ),
]
MaxFlashKb = Annotated[
    float | None,
    typer.Option(
        "--max-flash-kb",
        metavar="KB",
        help="Gate on the model data of micro files, without the runtime.",
        rich_help_panel=o.GATES,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ExportGateGroup(GateGroup):
    """Options for the gates of an export, whose teacher is that of the run."""

    max_accuracy_drop: MaxTeacherDrop = None
    max_export_drop: MaxExportDrop = None
    min_gain: UncheckedMinGain = None
    min_agreement: MinTeacherAgreement = None
    max_latency_ratio: MaxTeacherRatio = None
    max_ram_kb: MaxRamKb = None
    max_flash_kb: MaxFlashKb = None


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
    batch: BatchOption = None,
    output_kind: OutputKindOption = "teacher",
    out: o.Out = None,
    recipe: o.RecipeOption = None,
    split: o.Split = "auto",
    latency: o.Latency = True,
    runtime: o.Runtime = None,
    latency_command: o.LatencyCommand = None,
    web_runtime: WebRuntime = None,
    pick: Pick = None,
) -> None:
    """Export a model to deployable files."""
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
            latency_command=latency_command,
            web_runtime=None if web_runtime is None else str(web_runtime),
            pick=pick,
            gates=bounds,
            **options,
        )
    finally:
        output.close()
    _show(result, output, data_options=_name_data(model, data=recipe_options.data, recipe=recipe))
    _suggest_training(model, result, data=recipe_options.data, recipe=recipe)
    _fail(result, output, strict=gates.strict_gates, tolerant="all" in formats)


def _suggest_training(model: Path, result: ExportResult, *, data: str | None, recipe: str | None) -> None:
    """Name the command that trains the model for 8 bits, if an int8 file differs too much from it."""
    if any(one.path is None and (one.quantize == "int8" or one.format == "micro") for one in result.artifacts):
        words = ["kd", "quantize", str(model)]
        words += [*(["--recipe", recipe] if recipe else []), *(["--data", data] if data else [])]
        print(f"hint: training for 8 bits may help: {shlex.join(words)}", file=sys.stderr)


def _show(result: ExportResult, output: Output, *, data_options: Sequence[str]) -> None:
    document = result.to_json()
    output.result(
        document, path=_find_path(result), human=[_make_file_table(document), *make_gate_tables(result.gates)]
    )
    lite = next((artifact for artifact in document["artifacts"] if artifact["format"] == "litert"), None)
    if lite is not None and lite["path"]:
        output.next_command(shlex.join(["kd", "evaluate", lite["path"], *data_options]))


def _fail(result: ExportResult, output: Output, *, strict: bool, tolerant: bool) -> None:
    """Exit with the code of the first file that was not written, or of the gates.

    Args:
        result: of the export.
        output: where failures are printed.
        strict: whether inconclusive gates fail.
        tolerant: whether files may fail as long as one is left, as with `--format all`.
    """
    from kdcli.errors import ModelError

    if tolerant and any(one.path is not None and one.passes for one in result.artifacts):
        for failure in result.failures:
            output.on_event(Note(failure.message, warning=True))
        return
    for failure in result.failures:
        output.failed(ModelError(failure.message, hint=failure.hint))
    with suppress(typer.Exit) if result.failures else nullcontext():
        enforce_gates(result.gates, strict=strict)
    if result.failures:
        raise typer.Exit(ModelError.exit_code)


def _find_path(result: ExportResult) -> str | None:
    from kdcli.runs.results import relativize_path

    return relativize_path(result.path) if result.path else None


def _make_file_table(document: dict[str, Any]) -> Table:
    from kdcli.cli.console import make_table

    rows = []
    has_ram = any(artifact["ram_bytes"] is not None for artifact in document["artifacts"])
    for artifact in document["artifacts"]:
        output = f"{artifact['output']['kind']} {artifact['output']['dtype']}"
        cells = [
            f"{artifact['bytes']:,}",
            _describe_input(artifact["input"]),
            output,
            f"{artifact['max_abs_diff']:.2g}",
        ]
        interval = "" if artifact["low"] is None else f" [{artifact['low']:.4f}, {artifact['high']:.4f}]"
        for name, more in (("agreement", ""), ("accuracy", interval), ("p50_ms", "")):
            cells.append("" if artifact[name] is None else f"{artifact[name]:.4f}{more}")
        if has_ram:
            cells.append("" if artifact["ram_bytes"] is None else f"{artifact['ram_bytes']:,}")
        mark = " (picked)" if artifact["path"] and artifact["path"] == document["picked"] else ""
        mark = mark or (" (dominated)" if artifact["dominated_by"] else "")
        rows.append([f"{artifact['path']}{mark}" if artifact["path"] else f"{artifact['name']} (deleted)", *cells])
    accuracy = "" if document["accuracy"] is None else f" (accuracy {document['accuracy']:.4f})"
    inputs = "random inputs"
    if document["split"]:
        inputs = f"{document['examples']:,} examples of the {document['split']} split"
    columns: tuple[str, ...] = (
        "file",
        "bytes",
        "input",
        "output",
        "largest difference",
        "agreement",
        "accuracy",
        "p50 ms",
    )
    columns = (*columns, "RAM bytes") if has_ram else columns
    return make_table(f"compared with {document['model']}{accuracy} on {inputs}", columns, rows)


def _describe_input(tensor: dict[str, Any]) -> str:
    """Shape, type and range of an input, and its batch size if that is fixed."""
    shape = "×".join(str(side) for side in tensor["shape"])
    limits = f" {tensor['range'][0]:g} to {tensor['range'][1]:g}" if tensor["range"] else ""
    # int8 holds the bytes 0 to 255 shifted.
    shift = " minus 128" if limits and tensor["dtype"] == "int8" else ""
    batch = f", batch {tensor['batch']}" if tensor["batch"] else ""
    return f"{shape} {tensor['dtype']}{limits}{shift}{batch}"


def _name_data(model: Path, *, data: str | None, recipe: str | None) -> list[str]:
    """The options with which the next command uses the same data."""
    from kdcli.runs.directory import find_run_recipe

    run = find_run_recipe(model)
    words = ["--recipe", recipe or str(run)] if recipe or (run is not None and not data) else []
    return [*words, *(["--data", data] if data else [])]
