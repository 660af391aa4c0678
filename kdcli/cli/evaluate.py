"""kd evaluate: options, and the tables of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import GateGroup, enforce_gates, make_gate_tables
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup
from kdcli.runs.latency_results import FEW_SAMPLES

if TYPE_CHECKING:
    from kdcli.cli.console import Table

PerClass = Annotated[
    bool,
    typer.Option(
        "--per-class", help="Show precision, recall and F1 of every class.", rich_help_panel=o.EVALUATION
    ),
]
Cold = Annotated[
    bool,
    typer.Option(
        "--cold", help="Measure time to first output and memory of fresh processes.", rich_help_panel=o.EVALUATION
    ),
]
_QUANTILES = ("p50_ms", "p90_ms", "p99_ms")
# Columns of the table, in this order, as far as any model has them.
_METRICS = ("accuracy", "macro_f1", "mean_iou", "rmse", "mae", "psnr", "loss", "top5", "ece", "balanced_accuracy")


def command(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL|RUN ...", help="Model files or run directories.")],
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    gates: GateGroup,
    teacher: o.Teacher = None,
    recipe: o.RecipeOption = None,
    split: o.Split = "auto",
    per_class: PerClass = False,
    latency: o.Latency = False,
    runtime: o.Runtime = None,
    latency_command: o.LatencyCommand = None,
    cold: Cold = False,
) -> None:
    """Measure models on one split of the data."""
    from kdcli.commands.evaluate import evaluate

    bounds, output = gates.read(), printing.open()
    try:
        options = recipe_options.to_options(output)
        options.update(part.to_options())
        evaluation = evaluate(
            *models,
            teacher=teacher,
            recipe=recipe,
            split=split,
            limit=recipe_options.number_of_examples(),
            per_class=per_class,
            latency=latency,
            runtime=runtime,
            latency_command=latency_command,
            cold=cold,
            gates=bounds,
            **options,
        )
    finally:
        output.close()
    document = evaluation.to_json()
    human = [
        _make_metrics_table(document),
        *_describe_optimizer_state(document),
        *_make_latency_table(document),
        *_make_cold_table(document),
        *_make_class_tables(document),
        *make_gate_tables(evaluation.gates),
    ]
    output.result(document, path="\n".join(model["path"] for model in document["models"]), human=human)
    enforce_gates(evaluation.gates, strict=gates.strict_gates)


def _make_metrics_table(document: dict[str, Any]) -> Table:
    from kdcli.cli.console import make_table

    models = document["models"]
    metrics = [name for name in (*_METRICS, "agreement") if any(model.get(name) is not None for model in models)]
    rows = []
    for model in models:
        cells = []
        for name in metrics:
            cell = _format_metric(model.get(name))
            if name == "accuracy" and model.get("low") is not None:
                cell += f" [{model['low']:.4f}, {model['high']:.4f}]"
            cells.append(cell)
        counts = [_format_count(model[name]) for name in ("parameters", "flops", "bytes")]
        rows.append([model["path"], *cells, *counts])
    title = f"{models[0]['examples']:,} examples, {document['split']} split"
    return make_table(title, ("model", *metrics, "parameters", "FLOPs", "bytes"), rows)


def _describe_optimizer_state(document: dict[str, Any]) -> list[str]:
    """One line for each file that holds more than the model."""
    return [
        f"{one['path']}: {one['bytes']:,} bytes without the optimizer state, {one['file_bytes']:,} bytes with it"
        for one in document["models"]
        if "file_bytes" in one
    ]


def _make_latency_table(document: dict[str, Any]) -> list[str | Table]:
    """The table of latencies with its noise floor; empty if nothing was timed."""
    from kdcli.cli.console import make_table

    if document.get("latency_noise_floor") is None:
        return []
    rows = []
    for model in document["models"]:
        latency = model["latency"]
        if latency is None:
            continue
        per_call = f" × {latency['calls_per_sample']} calls" if latency["calls_per_sample"] > 1 else ""
        quantiles = ["-" if latency[name] is None else f"{latency[name]:.4g}" for name in _QUANTILES]
        mean = f"{latency['mean_ms']:.4g} ± {latency['sd_ms']:.2g}"
        ratio = latency["ratio"]
        against = f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "-"
        samples = f"{latency['samples']}{per_call}"
        rate = f"{latency['examples_per_second']:,.0f} at {latency['best_batch']}"
        runtime = latency["runtime"]
        runtime += f", {latency['threads']} threads" if latency["threads"] else ""
        rows.append([model["path"], runtime, *quantiles, mean, against, rate, samples, str(latency["outliers"])])
    columns = ("model", "runtime", "p50 ms", "p90", "p99", "mean ± sd", "vs. teacher", "examples/s", "samples")
    floor = document["latency_noise_floor"]
    lines = [
        f"noise floor: ratio of a model to itself {floor['value']:.3f} [{floor['low']:.3f}, {floor['high']:.3f}]"
    ]
    timed = [model for model in document["models"] if model["latency"]]
    lines += [f"{one['path']}: {one['latency']['no_ratio']}" for one in timed if "no_ratio" in one["latency"]]
    if any(one["latency"]["p99_ms"] is None for one in timed):
        lines.append(FEW_SAMPLES)
    return [make_table("latency, batch 1", (*columns, "outliers"), rows), *lines]


def _make_cold_table(document: dict[str, Any]) -> list[Table]:
    """The table of cold starts; empty if none was measured."""
    from kdcli.cli.console import make_table

    names = ("import_ms", "open_ms", "first_ms", "total_ms", "peak_mb")
    rows = [
        [model["path"], *(f"{model['cold'][name]:.1f}" for name in names)]
        for model in document["models"]
        if "cold" in model
    ]
    heads = ("model", "import ms", "open ms", "first run ms", "total ms", "peak MB")
    return [make_table("cold start, in a fresh process", heads, rows)] if rows else []


def _make_class_tables(document: dict[str, Any]) -> list[str | Table]:
    """A table of classes for each model, and its worst class."""
    from kdcli.cli.console import make_table

    parts: list[str | Table] = []
    for model in document["models"]:
        classes = model.get("classes")
        if not classes:
            continue
        changes = any(one["change"] is not None for one in classes)
        names = ("precision", "recall", "f1", *(("change",) if changes else ()))
        rows = [
            [one["name"], f"{one['examples']:,}", *(_format_metric(one[name]) for name in names)]
            for one in classes
        ]
        heads = ("class", "examples", "precision", "recall", "F1", *(("F1 vs. teacher",) if changes else ()))
        parts += [make_table(model["path"], heads, rows), f"worst class: {model['worst_class']}"]
    return parts


def _format_metric(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _format_count(value: int | None) -> str:
    return "n/a" if value is None else f"{value:,}"
