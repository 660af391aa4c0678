"""Every option, written once; a command lists those that it takes."""

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
        help="Model file or run directory; repeatable: an ensemble.",
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
        help="Shipped name, or a path with / or .yaml; - is stdin.",
        rich_help_panel=COMMON,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="A setting of the recipe; repeatable.", rich_help_panel=COMMON
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="D",
        help="A name (digits, mnist, ...), or a file or folder of examples.",
        rich_help_panel=COMMON,
    ),
]
LimitOption = Annotated[
    str | None,
    typer.Option(
        "--limit",
        metavar="N",
        help="Use N examples, or a share such as 0.1; stratified.",
        rich_help_panel=COMMON,
    ),
]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Examples in a batch.", rich_help_panel=COMMON)
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="TensorFlow's threads.", rich_help_panel=COMMON),
]
Code = Annotated[
    list[Path] | None,
    typer.Option(
        "--code",
        metavar="FILE.py",
        help="Run a file that defines your own layers or kinds; repeatable.",
        rich_help_panel=COMMON,
    ),
]
TrustModel = Annotated[
    bool,
    typer.Option("--trust-model", help="Open a model that screening refuses.", rich_help_panel=COMMON),
]
AllowTables = Annotated[
    bool,
    typer.Option("--allow-tables", help="Let a SavedModel fill lookup tables.", rich_help_panel=COMMON),
]
AllowRemote = Annotated[
    bool,
    typer.Option("--allow-remote", help="Fetch models from http://, gs:// or hf://.", rich_help_panel=COMMON),
]
Signature = Annotated[
    str | None,
    typer.Option("--signature", metavar="NAME", help="Which signature of a SavedModel.", rich_help_panel=COMMON),
]
OutputName = Annotated[
    str | None,
    typer.Option("--output", metavar="NAME", help="Which of a model's several outputs.", rich_help_panel=COMMON),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=COMMON)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the resulting path.", rich_help_panel=COMMON)]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show the whole plan, and tracebacks.", rich_help_panel=COMMON)
]
NoColor = Annotated[bool, typer.Option("--no-color", help="Plain text.", rich_help_panel=COMMON)]

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Run directory; runs/<time>_... when left out.", rich_help_panel=RUN
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Start, continue or show the run in --out.", rich_help_panel=RUN)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete the run in --out first.", rich_help_panel=RUN)
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Of everything random.", rich_help_panel=RUN)
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", metavar="N", help="Passes over the data.", rich_help_panel=RUN)
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="auto|one|workers",
        help="All GPUs, one device, or the processes of TF_CONFIG.",
        rich_help_panel=RUN,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Open everything, run one step, print the plan.", rich_help_panel=RUN),
]
MaxTime = Annotated[
    str | None,
    typer.Option(
        "--max-time", metavar="30m", help="Stop and save after this time (exit 143).", rich_help_panel=RUN
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
        help="What to measure on; auto is test, else everything.",
        rich_help_panel=EVALUATION,
    ),
]

Latency = Annotated[
    bool, typer.Option("--latency/--no-latency", help="Time the models.", rich_help_panel=EVALUATION)
]
Runtime = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="tensorflow|litert|onnxruntime",
        help="Time only models of this runtime.",
        rich_help_panel=EVALUATION,
    ),
]
GateOption = Annotated[
    list[str] | None,
    typer.Option("--gate", metavar="'METRIC>=BOUND'", help="Exit 7 if it does not hold.", rich_help_panel=GATES),
]
MinAccuracy = Annotated[
    float | None, typer.Option("--min-accuracy", metavar="F", help="Gate; a fraction.", rich_help_panel=GATES)
]
MaxAccuracyDrop = Annotated[
    float | None,
    typer.Option("--max-accuracy-drop", metavar="F", help="Gate, against the teacher.", rich_help_panel=GATES),
]
MinGain = Annotated[
    float | None, typer.Option("--min-gain", metavar="F", help="Gate, against scratch.", rich_help_panel=GATES)
]
MinAgreement = Annotated[
    float | None,
    typer.Option("--min-agreement", metavar="F", help="Gate, with the teacher.", rich_help_panel=GATES),
]
MaxLatencyMs = Annotated[
    float | None, typer.Option("--max-latency-ms", metavar="MS", help="Gate, median.", rich_help_panel=GATES)
]
MaxLatencyRatio = Annotated[
    float | None,
    typer.Option("--max-latency-ratio", metavar="F", help="Gate, against the teacher.", rich_help_panel=GATES),
]
MaxSizeMb = Annotated[
    float | None, typer.Option("--max-size-mb", metavar="MB", help="Gate, 10^6 bytes.", rich_help_panel=GATES)
]
StrictGates = Annotated[
    bool,
    typer.Option("--strict-gates", help="Inconclusive gates fail too.", rich_help_panel=GATES),
]

CacheLimit = Annotated[
    str | None,
    typer.Option(
        "--cache-limit",
        metavar="SIZE",
        help="What the cache may hold, such as 20GB; a fifth of the free disk.",
        rich_help_panel=RUN,
    ),
]

# What people type from other tools, and what it is called here.
FOREIGN = {
    "--alpha": "a term's weight is a setting: --set losses.soft_targets.weight=0.9",
    "--temperature": "a setting of the loss: --set losses.soft_targets.temperature=4",
    "--T": "a setting of the loss: --set losses.soft_targets.temperature=4",
    "-T": "a setting of the loss: --set losses.soft_targets.temperature=4",
    "--lr": "a setting: --set train.optimizer.learning_rate=1e-3",
    "--learning-rate": "a setting: --set train.optimizer.learning_rate=1e-3",
    "--weight-decay": "a setting: --set 'train.optimizer={kind: adamw, weight_decay: 1e-4}'",
    "--momentum": "a setting: --set 'train.optimizer={kind: sgd, momentum: 0.9}'",
    "--optimizer": "a setting: --set train.optimizer=sgd",
    "--loss": "losses stand in the recipe: kd losses ls, kd recipes show soft-targets",
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
    "--cache": "KD_CACHE_DIR says where answers are kept; kd cache ls",
    "--cache-dir": "KD_CACHE_DIR says where answers are kept; kd cache dir",
    "--patience": "a setting: --set train.early_stopping.patience=3",
    "--workers": "kd uses every core (--threads N); several machines: --devices workers (docs/scale-out.md)",
    "--num-workers": "kd uses every core: --threads N",
    "--force": "--overwrite",
    "--output-dir": "--out DIR",
    "--save-dir": "--out DIR",
}
