"""kd shrink: options, and the teacher and the student side by side."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import QualityGateGroup, enforce_gates, make_gate_tables
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup

if TYPE_CHECKING:
    from kdcli.artifacts.shrink_request import ShrinkOptions
    from kdcli.cli.console import Table
    from kdcli.runs.shrink_results import ShrinkResult

TARGETS, CHANNELS = "Targets", "Channels"
Keep = Annotated[
    float | None,
    typer.Option(
        "--keep", metavar="F", help="Fraction of channels to keep; 0.5 by default.", rich_help_panel=TARGETS
    ),
]
MaxParams = Annotated[
    str | None,
    typer.Option(
        "--max-params", metavar="N", help="Largest number of parameters, e.g. 50k.", rich_help_panel=TARGETS
    ),
]
MaxMflops = Annotated[
    float | None,
    typer.Option("--max-mflops", metavar="F", help="Maximum MFLOPs per example.", rich_help_panel=TARGETS),
]
MaxSizeMb = Annotated[
    float | None,
    typer.Option("--max-size-mb", metavar="MB", help="Largest file; 1 MB is 10^6 bytes.", rich_help_panel=TARGETS),
]
MaxLatencyMs = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ms",
        metavar="MS",
        help="Largest median latency of the file on this machine.",
        rich_help_panel=TARGETS,
    ),
]
MeasureAs = Annotated[
    str,
    typer.Option(
        "--measure-as",
        metavar="FORMAT",
        help="File format for measuring size and latency.",
        rich_help_panel=TARGETS,
    ),
]
Importance = Annotated[
    str | None,
    typer.Option(
        "--importance",
        metavar="activation|taylor|bn_scale|l1|l2|fpgm|random",
        help="Criterion that ranks channels.",
        rich_help_panel=CHANNELS,
    ),
]
Allocation = Annotated[
    str | None,
    typer.Option(
        "--allocation",
        metavar="uniform|global",
        help="The same fraction of every layer, or one ranking of all channels.",
        rich_help_panel=CHANNELS,
    ),
]
RoundTo = Annotated[
    int | None,
    typer.Option(
        "--round-to",
        metavar="N",
        help="Round channel counts to multiples of N; 8 by default.",
        rich_help_panel=CHANNELS,
    ),
]
Blocks = Annotated[
    int | None,
    typer.Option(
        "--blocks", metavar="N", help="Number of residual blocks to leave out.", rich_help_panel=CHANNELS
    ),
]
Rank = Annotated[
    int | None,
    typer.Option(
        "--rank", metavar="N", help="Split large Dense layers into two of this rank.", rich_help_panel=CHANNELS
    ),
]
Side = Annotated[
    float | None,
    typer.Option(
        "--side",
        metavar="F",
        help="Image side as a fraction of the teacher's.",
        rich_help_panel=CHANNELS,
    ),
]
FreeNormalized = Annotated[
    bool,
    typer.Option(
        "--free-normalized",
        help="Also remove channels that a layer normalization or a softmax couples.",
        rich_help_panel=CHANNELS,
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Draw new weights for the same architecture.", rich_help_panel=CHANNELS),
]


@dataclass(frozen=True, kw_only=True)
class ShrinkGroup:
    """Options that set the size of the student."""

    keep: Keep = None
    max_params: MaxParams = None
    max_mflops: MaxMflops = None
    max_size_mb: MaxSizeMb = None
    max_latency_ms: MaxLatencyMs = None
    measure_as: MeasureAs = "litert/int8"
    latency_command: o.LatencyCommand = None
    importance: Importance = None
    allocation: Allocation = None
    round_to: RoundTo = None
    blocks: Blocks = None
    rank: Rank = None
    side: Side = None
    free_normalized: FreeNormalized = False
    fresh: Fresh = False

    def to_options(self) -> ShrinkOptions:
        """Keyword arguments for the Python API."""
        return {
            "keep": self.keep,
            "max_params": parse_count(self.max_params),
            "max_mflops": self.max_mflops,
            "max_size_mb": self.max_size_mb,
            "max_latency_ms": self.max_latency_ms,
            "measure_as": self.measure_as,
            "latency_command": self.latency_command,
            "importance": self.importance,
            "allocation": self.allocation,
            "round_to": self.round_to,
            "blocks": self.blocks,
            "rank": self.rank,
            "side": self.side,
            "free_normalized": self.free_normalized or None,
            "fresh": self.fresh,
        }


def command(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="Model file or run directory.")],
    size: ShrinkGroup,
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    gates: QualityGateGroup,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.keras",
            help="File to create; NAME-shrunk.keras by default.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file in --out.", rich_help_panel=o.RUN)
    ] = False,
    recipe: o.RecipeOption = None,
    seed: o.SeedOption = None,
    dry_run: o.DryRun = False,
) -> None:
    """Make a student: the teacher without its least important channels."""
    from kdcli.commands.shrink import shrink
    from kdcli.runs.shrink_results import ShrinkResult

    bounds, output = gates.read(), printing.open()
    try:
        options: ShrinkOptions = {**recipe_options.to_options(output), **size.to_options()}
        options.update(part.to_options())
        options["seed"], options["dry_run"] = seed, dry_run
        options["limit"] = recipe_options.number_of_examples()
        result = shrink(teacher, recipe=recipe, out=out, overwrite=overwrite, gates=bounds, **options)
    finally:
        output.close()
    assert isinstance(result, ShrinkResult)
    _show(result, output, data=recipe_options.data, recipe=recipe)
    enforce_gates(result.gates, strict=gates.strict_gates)


def parse_count(text: str | None) -> int | None:
    """Read `--max-params`: `50000`, `50k` or `1.5M`."""
    from kdcli.errors import UsageError

    if text is None:
        return None
    units = {"": 1, "k": 1_000, "m": 1_000_000}
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    try:
        count = round(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        count = 0
    if count < 1:
        raise UsageError(
            f"--max-params must be a count such as 50000 or 50k, got {text!r}", hint="--max-params 50k"
        )
    return count


def _show(result: ShrinkResult, output: Any, *, data: str | None, recipe: str | None) -> None:
    from kdcli.runs.results import relativize_path

    document = result.to_json()
    human = [_make_table(document), *_make_block_tables(document), *make_gate_tables(result.gates)]
    if output.verbose or result.path is None:
        human.insert(1, _make_layer_table(document))
    else:
        human.append(_describe_frozen(document))
    human.extend(f"note: {text}" for text in document["findings"])
    if result.path is None:
        output.result(document, human=[*human, "nothing was written"])
        return
    path = relativize_path(result.path)
    human.append(
        f"{path}: {document['student']['parameters']:,} parameters, {result.start} weights, not trained yet"
    )
    output.result(document, path=path, human=[text for text in human if text])
    words = ["kd", "distill", "--teacher", str(result.source), "--student", path]
    words += ["--recipe", recipe] if recipe else []
    words += ["--data", data] if data else []
    output.next_command(shlex.join(words) + ("" if data or recipe or result.split else " --data D"))


def _make_table(document: dict[str, Any]) -> Table:
    from kdcli.cli.console import make_table

    before, after = document["teacher"], document["student"]
    rows = [["parameters", *_compare(before["parameters"], after["parameters"], "{:,}")]]
    for name in before["bytes"]:
        rows.append([f"weights as {name}, bytes", *_compare(before["bytes"][name], after["bytes"][name], "{:,}")])
    measured_as = document["measured_as"]
    rows.append(
        [f"file as {measured_as}, bytes", *_compare(before["exported_bytes"], after["exported_bytes"], "{:,}")]
    )
    rows.append(["FLOPs per example", *_compare(before["flops"], after["flops"], "{:,}")])
    slow, fast = ((one["latency"] or {}).get("p50_ms") for one in (before, after))
    rows.append([f"p50 ms ({document['runtime'] or measured_as})", *_compare(slow, fast, "{:.4g}")])
    for name in ("accuracy", "macro_f1", "mean_iou", "rmse", "psnr", "loss"):
        if before.get(name) is not None:
            rows.append([name, *(_format(one.get(name), "{:.4f}") for one in (before, after)), ""])
    if after.get("agreement") is not None:
        rows.append(["agreement with teacher", "", f"{after['agreement']:.4f}", ""])
    title = f"keep {document['keep']:.4g}, importance {document['importance']}"
    if document["split"]:
        title += f", {before['examples']:,} {document['split']} examples, before any training"
    return make_table(title, ("", "teacher", "student", "ratio"), rows)


def _compare(before: float | None, after: float | None, form: str) -> list[str]:
    ratio = f"{after / before:.3g}" if before and after is not None else ""
    return [_format(before, form), _format(after, form), ratio]


def _format(value: float | None, form: str) -> str:
    return "n/a" if value is None else form.format(value)


def _make_layer_table(document: dict[str, Any]) -> Table:
    from kdcli.cli.console import make_table

    rows = [
        [layer["name"], f"{layer['before']:,}", f"{layer['after']:,}", layer["reason"] or ""]
        for layer in document["layers"]
    ]
    return make_table("channels", ("layer", "before", "after", "why it stays"), rows)


def _describe_frozen(document: dict[str, Any]) -> str:
    """A line on the layers that keep their width, other than the outputs."""
    from kdcli.runs.shrink_results import OUTPUT_REASON

    frozen = [one["name"] for one in document["layers"] if one["frozen"] and one["reason"] != OUTPUT_REASON]
    if not frozen:
        return ""
    names = ", ".join(frozen[:3]) + (", ..." if frozen[3:] else "")
    count = f"{len(frozen)} of {len(document['layers'])} layers keep their width"
    return f"{count}: {names}; --verbose says why"


def _make_block_tables(document: dict[str, Any]) -> list[Table]:
    from kdcli.cli.console import make_table

    tables = []
    measured = [block for block in document["blocks"] if block["change"] is not None]
    if measured:
        rows = [
            [block["name"], f"{block['change']:.4f}", "left out" if block["left_out"] else ""]
            for block in measured
        ]
        tables.append(make_table("residual blocks, least change first", ("block", "change", ""), rows))
    if document["low_rank"]:
        rows = [[one["name"], str(one["rank"]), f"{one['energy']:.1%}"] for one in document["low_rank"]]
        tables.append(make_table("split Dense layers", ("layer", "rank", "energy retained"), rows))
    return tables
