"""kd compress: options, and the teacher and the file side by side."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import QualityGateGroup, enforce_gates, make_gate_tables
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup, RunGroup, parse_time
from kdcli.cli.runs import start_run
from kdcli.cli.shrink import TARGETS, MaxMflops, MaxSizeMb

if TYPE_CHECKING:
    from kdcli.cli.console import Output
    from kdcli.compression.request import CompressOptions
    from kdcli.runs.compression_results import Compression, CompressionPlan

SEARCH = "Search"
MaxLatencyMs = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ms",
        metavar="MS",
        help="Largest median latency of the file, in ms.",
        rich_help_panel=TARGETS,
    ),
]
MaxLatencyRatio = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ratio",
        metavar="F",
        help="Largest latency relative to the teacher in the same runtime.",
        rich_help_panel=TARGETS,
    ),
]
MaxRamKb = Annotated[
    float | None,
    typer.Option(
        "--max-ram-kb",
        metavar="KB",
        help="Largest tensor arena of a micro file; 1 KB is 1,024 bytes.",
        rich_help_panel=TARGETS,
    ),
]
MaxFlashKb = Annotated[
    float | None,
    typer.Option(
        "--max-flash-kb", metavar="KB", help="Largest model data of a micro file.", rich_help_panel=TARGETS
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        metavar="F",
        help="Largest drop of the metric from the teacher.",
        rich_help_panel=TARGETS,
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option("--metric", metavar="NAME", help="Metric that --max-drop bounds.", rich_help_panel=TARGETS),
]
Format = Annotated[
    str,
    typer.Option("--format", metavar="F", help="Format of the file.", rich_help_panel=TARGETS),
]
Students = Annotated[
    list[Path] | None,
    typer.Option(
        "--student", metavar="FILE", help="Additional candidate: file or run; repeatable.", rich_help_panel=SEARCH
    ),
]
Budget = Annotated[
    str | None,
    typer.Option("--budget", metavar="30m", help="Time to plan for; 20m by default.", rich_help_panel=SEARCH),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats", metavar="N", min=1, help="Number of seeds for the best candidate.", rich_help_panel=SEARCH
    ),
]


@dataclass(frozen=True, kw_only=True)
class TargetGroup:
    """Options for the targets and the search."""

    max_size_mb: MaxSizeMb = None
    max_latency_ms: MaxLatencyMs = None
    max_latency_ratio: MaxLatencyRatio = None
    max_mflops: MaxMflops = None
    max_ram_kb: MaxRamKb = None
    max_flash_kb: MaxFlashKb = None
    max_drop: MaxDrop = None
    metric: MetricName = None
    format: Format = "litert"
    latency_command: o.LatencyCommand = None
    budget: Budget = None
    repeats: Repeats = 1

    def to_options(self) -> CompressOptions:
        """Keyword arguments for the Python API."""
        return {
            "max_size_mb": self.max_size_mb,
            "max_latency_ms": self.max_latency_ms,
            "max_latency_ratio": self.max_latency_ratio,
            "max_mflops": self.max_mflops,
            "max_ram_kb": self.max_ram_kb,
            "max_flash_kb": self.max_flash_kb,
            "max_drop": self.max_drop,
            "metric": self.metric,
            "format": self.format,
            "latency_command": self.latency_command,
            "budget": parse_time(self.budget, option="--budget"),
            "repeats": self.repeats,
        }


def command(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Trained model; several form an ensemble.")
    ],
    targets: TargetGroup,
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    run: RunGroup,
    gates: QualityGateGroup,
    student: Students = None,
    recipe: o.RecipeOption = None,
) -> None:
    """Compress a trained model into a file that meets your targets."""
    from kdcli.commands.compress import compress

    bounds, own = gates.read(), targets.to_options()
    with start_run(recipe_options, run, printing) as (output, options):
        merged: CompressOptions = {**options, **part.to_options(), **own}
        result = compress(
            *models,
            recipe=recipe,
            students=student or (),
            gates=bounds,
            strict_gates=gates.strict_gates,
            **merged,
        )
    _show(result, output, data=recipe_options.data, strict=gates.strict_gates)


def _show(result: Compression | CompressionPlan, output: Output, *, data: str | None, strict: bool) -> None:
    from kdcli.runs.compression_results import CompressionPlan

    document = result.to_json()
    if isinstance(result, CompressionPlan):
        output.result(document, human=[*_format_plan(document), "nothing was written"])
        return
    path = document["picked"]["path"] if result.is_met else None
    output.result(document, path=path, human=format_compression(result))
    if result.is_met:
        output.next_command(_suggest_use(document, data))
    enforce_gates(result.gates, strict=strict)


def format_compression(result: Compression) -> list[Any]:
    """The tables of a finished search; the teacher and the file come last."""
    document = result.to_json()
    parts = [
        _make_candidate_table(document),
        *make_gate_tables(result.gates),
        *(f"{gate.name} {gate.bound}: {gate.reason}" for gate in result.gates if gate.reason),
        *(f"note: {text}" for text in document["findings"]),
        _make_table(document),
        _describe_ratios(document),
    ]
    return [part for part in parts if part]


def _format_plan(document: dict[str, Any]) -> list[Any]:
    schedule = document["schedule"]
    targets = ", ".join(f"{name} {value:g}" for name, value in document["targets"].items() if value is not None)
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in schedule["seconds"].items())
    return [
        _make_candidate_table(document),
        f"{schedule['epochs']} epochs for the best, compared at steps "
        + ", ".join(f"{step:,}" for step in schedule["rungs"]),
        f"targets: {targets or 'none'}",
        f"estimated time: {times}",
        *(f"note: {text}" for text in document["findings"]),
    ]


def _make_candidate_table(document: dict[str, Any]) -> Any:
    from kdcli.cli.console import make_table

    rows = []
    front = document.get("front", ())
    for one in document["candidates"]:
        time = "" if one["latency"] is None else f"{one['latency']['p50_ms']:.4g}"
        value = "" if one["validation"] is None else f"{one['validation']:.4f}"
        rows.append(
            [
                one["name"],
                one["status"] + (", on the front" if one["name"] in front else ""),
                _count(one["parameters"]),
                _count(one["bytes"]),
                time,
                value,
                one["reason"] or "",
            ]
        )
    heads = ("candidate", "status", "parameters", "bytes", "p50 ms", "validation", "reason")
    return make_table("candidates", heads, rows)


def _make_table(document: dict[str, Any]) -> Any:
    from kdcli.cli.console import make_table

    picked, teacher, metric = document["picked"], document["teacher"], document["metric"]
    rows = [
        ["path", teacher["path"] or "", picked["path"]],
        ["parameters", _count(teacher["parameters"]), _count(picked["parameters"])],
        ["bytes", _count(teacher["bytes"]), _count(picked["bytes"])],
        [f"{metric}, {document['split']}", f"{teacher['value']:.4f}", f"{picked['value']:.4f}"],
    ]
    if metric == "accuracy":
        rows.append(["  95% interval", *(_format_interval(one) for one in (teacher, picked))])
    rows += [
        ["drop", "", f"{picked['drop']['value']:+.4f}"],
        ["  95% interval", "", _format_interval(picked["drop"])],
    ]
    if picked["latency"] is not None:
        times = [
            "n/a" if one is None else f"{one['p50_ms']:.4g}" for one in (teacher["latency"], picked["latency"])
        ]
        threads = picked["latency"]["threads"]
        runtime = picked["latency"]["runtime"] + (f", {threads} threads" if threads else "")
        rows.append([f"p50 ms, {runtime}", *times])
    worst = document["classes"]
    if worst is not None:
        cells = [f"{worst[role]['name']}: {worst[role]['recall']:.4f}" for role in ("teacher", "file")]
        rows.append([f"worst class, recall, {worst['split']}", *cells])
    title = "the file meets every target" if document["met"] else "no file meets every target; this is the nearest"
    return make_table(title, ("", "teacher", "file"), rows)


def _format_interval(one: dict[str, Any]) -> str:
    return "" if one["low"] is None else f"[{one['low']:.4f}, {one['high']:.4f}]"


def _describe_ratios(document: dict[str, Any]) -> str:
    ratios, parts = document["ratios"], []
    if ratios["parameters"] is not None:
        parts.append(f"{ratios['parameters']:.1f} times fewer parameters")
    if ratios["file"] is not None:
        size = document["teacher"]["file_bytes"]
        parts.append(f"a file {ratios['file']:.1f} times smaller (the teacher in this format: {size:,} bytes)")
    if ratios["latency"] is not None:
        parts.append(f"{ratios['latency']:.2f} times faster")
    return ", ".join(parts)


def _suggest_use(document: dict[str, Any], data: str | None) -> str:
    path = Path(document["picked"]["path"])
    # A folder for another device holds the file.
    inside = sorted(path.glob("*.tflite")) if path.is_dir() else []
    words = [
        "kd",
        "predict",
        str(inside[0] if inside else path),
        "--data",
        data or "D",
        "--out",
        "predictions.csv",
    ]
    return shlex.join(words)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
