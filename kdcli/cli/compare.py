"""kd compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.gates import enforce, gate_tables, take_gates
from kdcli.cli.interrupts import interruptible
from kdcli.cli.values import parse_bytes, parse_limit, parse_time

Students = Annotated[
    list[Path] | None,
    typer.Option("--student", metavar="FILE", help="Model file or run; repeatable.", rich_help_panel=o.COMMON),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option("--recipe", metavar="R", help="Shipped name or path; repeatable.", rich_help_panel=o.COMMON),
]
Distilled = Annotated[
    list[Path] | None,
    typer.Option(
        "--distilled", metavar="RUN", help="A finished run; only its twin is trained.", rich_help_panel=o.COMMON
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option("--repeats", metavar="N", min=1, help="Pairs for each arm; 3.", rich_help_panel=o.COMMON),
]
# Parameters that the workflow knows by the same name.
PASSED_ON = (
    "teacher",
    "repeats",
    "data",
    "batch_size",
    "threads",
    "out",
    "resume",
    "overwrite",
    "seed",
    "epochs",
    "devices",
    "dry_run",
    "latency",
)


def command(
    teacher: o.Teacher = None,
    student: Students = None,
    recipe: Recipes = None,
    distilled: Distilled = None,
    repeats: Repeats = None,
    set_: o.Set = None,
    data: o.Data = None,
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
    out: o.Out = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    seed: o.SeedOption = None,
    epochs: o.Epochs = None,
    devices: o.Devices = None,
    dry_run: o.DryRun = False,
    max_time: o.MaxTime = None,
    no_preflight: o.NoPreflight = False,
    cache_limit: o.CacheLimit = None,
    latency: o.Latency = True,
    gate: o.GateOption = None,
    min_accuracy: o.MinAccuracy = None,
    max_accuracy_drop: o.MaxAccuracyDrop = None,
    min_gain: o.MinGain = None,
    min_agreement: o.MinAgreement = None,
    max_latency_ms: o.MaxLatencyMs = None,
    max_latency_ratio: o.MaxLatencyRatio = None,
    max_size_mb: o.MaxSizeMb = None,
    strict_gates: o.StrictGates = False,
) -> None:
    """Tell whether distillation beats the same student alone."""
    given = dict(locals())
    gates = take_gates(given)

    from kdcli.cli.console import Output, plan_parts
    from kdcli.commands.compare import compare
    from kdcli.runs.results import Plan

    output = Output(json_=json, quiet=quiet, verbose=verbose, no_color=no_color)
    with interruptible(parse_time(max_time), dry_run=dry_run) as stop:
        try:
            comparison = compare(
                **{name: given[name] for name in PASSED_ON},
                **o.trust_options(given),
                students=student or (),
                recipes=recipe or (),
                distilled=distilled or (),
                settings=set_ or (),
                limit=parse_limit(limit),
                cache_limit=parse_bytes(cache_limit),
                preflight=not no_preflight,
                gates=gates,
                stop=stop,
                on_event=output.on_event,
            )
        finally:
            output.close()
    document = comparison.to_json()
    if isinstance(comparison, Plan):
        lines = [_arm_line(arm) for arm in document["arms"]]
        output.result(document, human=[*lines, *plan_parts(comparison, whole=verbose), "nothing was written"])
        return
    output.result(document, path=document["picked"], human=[*shown(document), *gate_tables(comparison.gates)])
    if document["picked"]:
        output.next_command(f"kd export {document['picked']} --format litert")
    enforce(comparison.gates, strict=strict_gates)


def _arm_line(arm: dict[str, Any]) -> str:
    time = "finished" if arm["seconds"] is None else f"about {arm['seconds']} seconds"
    return f"arm       {arm['name']}: {arm['runs']} run{'s' * (arm['runs'] != 1)}, {time}"


def shown(document: dict[str, Any]) -> list[Any]:
    """What a person reads: both tables, then sentences."""
    from kdcli.cli.console import table
    from kdcli.comparison.tables import make_sentences, make_tables

    parts: list[Any] = [table(made.title, made.columns, made.rows) for made in make_tables(document)]
    return [*parts, *make_sentences(document), f"picked on validation: {document['picked']}"]
