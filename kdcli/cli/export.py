"""kd export."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import enforce, gate_tables, take_gates
from kdcli.cli.values import parse_limit

EXPORT = "Export"
# Parameters of the workflow that are options by the same name.
PASSED = (
    *("formats", "prepare", "io", "batch", "output_kind", "data", "out", "recipe", "batch_size", "threads"),
    *("split", "latency", "runtime"),
)
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


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="Model file or run directory.")],
    formats: Formats,
    quantize: Quantize = None,
    prepare: Prepare = None,
    io: Io = None,
    batch: Batch = None,
    output_kind: OutputKind = "teacher",
    data: o.Data = None,
    out: o.Out = None,
    recipe: o.RecipeOption = None,
    set_: o.Set = None,
    limit: o.LimitOption = None,
    batch_size: o.BatchSizeOption = None,
    threads: o.Threads = None,
    code: o.Code = None,
    trust_model: o.TrustModel = False,
    allow_tables: o.AllowTables = False,
    allow_remote: o.AllowRemote = False,
    signature: o.Signature = None,
    output_name: o.OutputName = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    no_color: o.NoColor = False,
    split: o.Split = "auto",
    latency: o.Latency = True,
    runtime: o.Runtime = None,
    gate: o.GateOption = None,
    min_accuracy: o.MinAccuracy = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    max_export_drop: MaxExportDrop = None,
    min_gain: MinGain = None,
    min_agreement: MinAgreement = None,
    max_latency_ms: o.MaxLatencyMs = None,
    max_latency_ratio: MaxLatencyRatio = None,
    max_size_mb: o.MaxSizeMb = None,
    strict_gates: o.StrictGates = False,
) -> None:
    """Write a model as files that ship, each compared with it."""
    given = dict(locals())
    gates = take_gates(given)

    from kdcli.cli.console import Output
    from kdcli.commands.export import export
    from kdcli.errors import ModelError

    output = Output(json_=json, quiet=quiet, verbose=verbose, no_color=no_color)
    try:
        exported = export(
            model,
            **{name: given[name] for name in PASSED},
            **o.trust_options(given),
            quantize=quantize or (),
            settings=set_ or (),
            limit=parse_limit(limit),
            gates=gates,
            on_event=output.on_event,
        )
    finally:
        output.close()
    document = exported.to_json()
    output.result(document, path=_path(exported), human=[_table(document), *gate_tables(exported.gates)])
    lite = next((artifact for artifact in document["artifacts"] if artifact["format"] == "litert"), None)
    if lite is not None and lite["path"]:
        output.next_command(_next(lite["path"], model, data=data, recipe=recipe))
    for failure in exported.failures:
        output.failed(ModelError(failure.message, hint=failure.hint))
    with suppress(typer.Exit) if exported.failures else nullcontext():
        enforce(exported.gates, strict=strict_gates)
    if exported.failures:
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


def _next(path: str, model: Path, *, data: str | None, recipe: str | None) -> str:
    import shlex

    from kdcli.runs.directory import find_run_recipe

    words = ["kd", "evaluate", path]
    own = find_run_recipe(model)
    if recipe or (own is not None and not data):
        words += ["--recipe", recipe or str(own)]
    return shlex.join([*words, *(["--data", data] if data else [])])
