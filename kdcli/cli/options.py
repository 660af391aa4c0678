"""Command-line options that several commands share, and hints for options of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

COMMON, RUN, EVALUATION, GATES = "Common", "Run", "Evaluation", "Gates"

Teacher = Annotated[
    Path | None,
    typer.Option("--teacher", metavar="FILE", help="Model file or run directory.", rich_help_panel=COMMON),
]
Teachers = Annotated[
    list[Path] | None,
    typer.Option(
        "--teacher",
        metavar="FILE",
        help="Model file or run directory; repeat for an ensemble.",
        rich_help_panel=COMMON,
    ),
]
Student = Annotated[
    Path | None,
    typer.Option("--student", metavar="FILE", help="Model file or run directory.", rich_help_panel=COMMON),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="R",
        help="Shipped name, path with / or .yaml, or - for stdin.",
        rich_help_panel=COMMON,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Override a setting of the recipe; repeatable.", rich_help_panel=COMMON
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="D",
        help="Data set name (digits, mnist, ...), file or folder.",
        rich_help_panel=COMMON,
    ),
]
LimitOption = Annotated[
    str | None,
    typer.Option(
        "--limit",
        metavar="N",
        help="Use N examples or a fraction such as 0.1; stratified.",
        rich_help_panel=COMMON,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", help="Number of examples per batch.", rich_help_panel=COMMON),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="Number of threads TensorFlow uses.", rich_help_panel=COMMON
    ),
]
Code = Annotated[
    list[Path] | None,
    typer.Option(
        "--code",
        metavar="FILE.py",
        help="Python file with custom layers or kinds; repeatable.",
        rich_help_panel=COMMON,
    ),
]
TrustModel = Annotated[
    bool,
    typer.Option("--trust-model", help="Open a model even if screening rejects it.", rich_help_panel=COMMON),
]
AllowTables = Annotated[
    bool,
    typer.Option("--allow-tables", help="Let a SavedModel fill lookup tables.", rich_help_panel=COMMON),
]
AllowRemote = Annotated[
    bool,
    typer.Option("--allow-remote", help="Download models from http://, gs:// or hf://.", rich_help_panel=COMMON),
]
Signature = Annotated[
    str | None,
    typer.Option("--signature", metavar="NAME", help="Signature of a SavedModel to use.", rich_help_panel=COMMON),
]
OutputName = Annotated[
    str | None,
    typer.Option("--output", metavar="NAME", help="Output to use if a model has several.", rich_help_panel=COMMON),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=COMMON)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the resulting path.", rich_help_panel=COMMON)]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show the whole plan, and tracebacks of errors.", rich_help_panel=COMMON)
]
NoColor = Annotated[bool, typer.Option("--no-color", help="Print without colors.", rich_help_panel=COMMON)]

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Output directory; runs/<time>_... by default.", rich_help_panel=RUN
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Start, continue or show the run in --out.", rich_help_panel=RUN)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete the run in --out first.", rich_help_panel=RUN)
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Random seed of the run.", rich_help_panel=RUN)
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", metavar="N", help="Number of passes over the training data.", rich_help_panel=RUN),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="auto|one|workers",
        help="All GPUs, one device, or the workers in TF_CONFIG.",
        rich_help_panel=RUN,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Open everything, run one step, print the plan; write nothing.", rich_help_panel=RUN
    ),
]
MaxTime = Annotated[
    str | None,
    typer.Option(
        "--max-time", metavar="30m", help="Save and stop after this time, with exit code 143.", rich_help_panel=RUN
    ),
]
NoPreflight = Annotated[
    bool, typer.Option("--no-preflight", help="Skip the checks before training.", rich_help_panel=RUN)
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        metavar="auto|train|validation|test|all",
        help="Split to use; auto is test if there is one, else all.",
        rich_help_panel=EVALUATION,
    ),
]

Latency = Annotated[
    bool, typer.Option("--latency/--no-latency", help="Measure latency, or skip it.", rich_help_panel=EVALUATION)
]
Runtime = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="tensorflow|litert|onnxruntime",
        help="Measure latency in this runtime only.",
        rich_help_panel=EVALUATION,
    ),
]
LatencyCommand = Annotated[
    str | None,
    typer.Option(
        "--latency-command",
        metavar="'CMD {file}'",
        help="Command that prints the latency of {file} in ms.",
        rich_help_panel=EVALUATION,
    ),
]
GateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="'METRIC>=BOUND'",
        help="Exit with code 7 if the bound does not hold; repeatable.",
        rich_help_panel=GATES,
    ),
]
MinAccuracy = Annotated[
    float | None,
    typer.Option("--min-accuracy", metavar="F", help="Gate on accuracy, as a fraction.", rich_help_panel=GATES),
]
MaxAccuracyDrop = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop", metavar="F", help="Gate on the drop from the teacher.", rich_help_panel=GATES
    ),
]
MinGain = Annotated[
    float | None,
    typer.Option("--min-gain", metavar="F", help="Gate on the gain over the baseline.", rich_help_panel=GATES),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        "--min-agreement", metavar="F", help="Gate on agreement with the teacher.", rich_help_panel=GATES
    ),
]
MaxLatencyMs = Annotated[
    float | None,
    typer.Option("--max-latency-ms", metavar="MS", help="Gate on median latency.", rich_help_panel=GATES),
]
MaxLatencyRatio = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ratio", metavar="F", help="Gate on latency relative to the teacher.", rich_help_panel=GATES
    ),
]
MaxSizeMb = Annotated[
    float | None,
    typer.Option("--max-size-mb", metavar="MB", help="Gate on size; 1 MB is 10^6 bytes.", rich_help_panel=GATES),
]
StrictGates = Annotated[
    bool,
    typer.Option("--strict-gates", help="Treat inconclusive gates as failed.", rich_help_panel=GATES),
]

CacheLimit = Annotated[
    str | None,
    typer.Option(
        "--cache-limit",
        metavar="SIZE",
        help="Maximum cache size, e.g. 20GB; a fifth of the free disk by default.",
        rich_help_panel=RUN,
    ),
]

# Options of other tools, and the hint that names kd's way.
FOREIGN = {
    "--alpha": "the weight of a loss is a setting: --set losses.soft_targets.weight=0.9",
    "--temperature": "a setting of the loss: --set losses.soft_targets.temperature=4",
    "--T": "a setting of the loss: --set losses.soft_targets.temperature=4",
    "-T": "a setting of the loss: --set losses.soft_targets.temperature=4",
    "--lr": "a setting: --set train.optimizer.learning_rate=1e-3",
    "--learning-rate": "a setting: --set train.optimizer.learning_rate=1e-3",
    "--weight-decay": "a setting: --set 'train.optimizer={kind: adamw, weight_decay: 1e-4}'",
    "--momentum": "a setting: --set 'train.optimizer={kind: sgd, momentum: 0.9}'",
    "--optimizer": "a setting: --set train.optimizer=sgd",
    "--loss": "losses are listed in the recipe: kd losses ls, kd recipes show soft-targets",
    "--device": "--devices auto|one|workers",
    "--gpu": "--devices auto uses every GPU",
    "--gpus": "--devices auto uses every GPU",
    "--imgsz": "a setting: --set 'student.input.resize=[96, 96]'",
    "--img-size": "a setting: --set 'student.input.resize=[96, 96]'",
    "--batch": "--batch-size N",
    "--model": "--teacher FILE and --student FILE; kd evaluate takes models without an option",
    "--dataset": "--data D",
    "--config": "--recipe R",
    "--fp16": "a setting: --set train.precision=mixed_bfloat16",
    "--half": "a setting: --set train.precision=mixed_bfloat16",
    "--amp": "a setting: --set train.precision=mixed_bfloat16",
    "--quantize": "kd export RUN --format litert --quantize int8",
    "--int8": "kd export RUN --format litert --quantize int8",
    "--precision": "a setting: --set teacher.precision=float32",
    "--targets": "a setting: --set teacher.targets=memory",
    "--views": "a setting: --set teacher.views=8",
    "--no-cache": "a setting: --set teacher.targets=memory",
    "--cache": "teacher outputs are cached in KD_CACHE_DIR: kd cache ls",
    "--cache-dir": "KD_CACHE_DIR sets the folder of the cache: kd cache dir",
    "--patience": "a setting: --set train.early_stopping.patience=3",
    "--workers": "kd uses all cores (limit: --threads N); several machines: --devices workers (docs/scale-out.md)",
    "--num-workers": "kd uses all cores (limit: --threads N)",
    "--force": "--overwrite",
    "--output-dir": "--out DIR",
    "--save-dir": "--out DIR",
}
