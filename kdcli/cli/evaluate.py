"""kd evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import GateGroup, enforce, gate_tables
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup
from kdcli.runs.latency_results import FEW_SAMPLES

PerClass = Annotated[
    bool,
    typer.Option("--per-class", help="Precision, recall and F1 of every class.", rich_help_panel=o.EVALUATION),
]
QUANTILES = ("p50_ms", "p90_ms", "p99_ms")
# Shown in this order, as far as any model has them.
FIGURES = ("accuracy", "macro_f1", "mean_iou", "rmse", "mae", "psnr", "loss", "top5", "ece", "balanced_accuracy")


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
) -> None:
    """Measure models on one split."""
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
            gates=bounds,
            **options,
        )
    finally:
        output.close()
    document = evaluation.to_json()
    human = [
        _table(document),
        *_sizes(document),
        *_latencies(document),
        *_classes(document),
        *gate_tables(evaluation.gates),
    ]
    output.result(document, path="\n".join(model["path"] for model in document["models"]), human=human)
    enforce(evaluation.gates, strict=gates.strict_gates)


def _table(document: dict[str, Any]) -> Any:
    from kdcli.cli.console import table

    models = document["models"]
    shown = [name for name in (*FIGURES, "agreement") if any(model.get(name) is not None for model in models)]
    rows = []
    for model in models:
        cells = []
        for name in shown:
            cell = _shown(model.get(name))
            if name == "accuracy" and model.get("low") is not None:
                cell += f" [{model['low']:.4f}, {model['high']:.4f}]"
            cells.append(cell)
        counts = [_count(model["parameters"]), _count(model["flops"]), str(model["bytes"])]
        rows.append([model["path"], *cells, *counts])
    title = f"{models[0]['examples']} examples, {document['split']} split"
    return table(title, ("model", *shown, "parameters", "FLOPs", "bytes"), rows)


def _sizes(document: dict[str, Any]) -> list[str]:
    """What files hold beside the model."""
    return [
        f"{one['path']}: {one['bytes']} bytes without the optimizer's state; the file has {one['file_bytes']}"
        for one in document["models"]
        if "file_bytes" in one
    ]


def _latencies(document: dict[str, Any]) -> list[Any]:
    """The times, and how far they can be trusted; nothing where nobody asked."""
    from kdcli.cli.console import table

    if document.get("latency_noise_floor") is None:
        return []
    rows = []
    for model in document["models"]:
        found = model["latency"]
        if found is None:
            continue
        per_call = f" × {found['calls_per_sample']} calls" if found["calls_per_sample"] > 1 else ""
        quantiles = ["-" if found[name] is None else f"{found[name]:.4g}" for name in QUANTILES]
        mean = f"{found['mean_ms']:.4g} ± {found['sd_ms']:.2g}"
        ratio = found["ratio"]
        against = f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "-"
        samples = f"{found['samples']}{per_call}"
        rate = f"{found['examples_per_second']:.0f} at {found['best_batch']}"
        runtime = f"{found['runtime']}, {found['threads']} threads"
        rows.append([model["path"], runtime, *quantiles, mean, against, rate, samples, str(found["outliers"])])
    columns = ("model", "runtime", "p50 ms", "p90", "p99", "mean ± sd", "to teacher", "examples/s", "samples")
    floor = document["latency_noise_floor"]
    said = [f"noise floor: a model to itself {floor['value']:.3f} [{floor['low']:.3f}, {floor['high']:.3f}]"]
    timed = [model for model in document["models"] if model["latency"]]
    said += [f"{one['path']}: {one['latency']['no_ratio']}" for one in timed if "no_ratio" in one["latency"]]
    if any(one["latency"]["p99_ms"] is None for one in timed):
        said.append(FEW_SAMPLES)
    return [table("latency, batch 1", (*columns, "outliers"), rows), *said]


def _classes(document: dict[str, Any]) -> list[Any]:
    """A table of classes for each model, with the worst one named."""
    from kdcli.cli.console import table

    parts: list[Any] = []
    for model in document["models"]:
        classes = model.get("classes")
        if not classes:
            continue
        changes = any(one["change"] is not None for one in classes)
        names = ("precision", "recall", "f1", *(("change",) if changes else ()))
        rows = [[one["name"], str(one["examples"]), *(_shown(one[name]) for name in names)] for one in classes]
        heads = ("class", "examples", "precision", "recall", "F1", *(("F1 to teacher",) if changes else ()))
        parts += [table(model["path"], heads, rows), f"worst class: {model['worst_class']}"]
    return parts


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "n/a" if value is None else str(value)
