"""Which gates a command can judge, and what its figures make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent
from kdcli.recipe.gates import OF_TEACHER, TIMED, Gate, GatesSection, parse_gate
from kdcli.runs.gated import GateResult
from kdcli.runs.results import Quality
from kdcli.runs.timed import Timing

_QUALITY = (
    "accuracy",
    "balanced_accuracy",
    "top5",
    "macro_f1",
    "micro_f1",
    "mean_average_precision",
    "mean_iou",
    "ece",
    "loss",
    "mae",
    "rmse",
    "r2",
    "psnr",
)
_SIZE = ("size_mb", "parameters")
# What each command measures of a model; the first one that measures a figure is named to who asks another.
COMMANDS: dict[str, tuple[str, ...]] = {
    "distill": (*_QUALITY, *_SIZE, "accuracy_drop", "agreement"),
    "evaluate": (*_QUALITY, *_SIZE, "flops", "accuracy_drop", "agreement", *TIMED),
    "compare": (*_QUALITY, *_SIZE, "flops", "accuracy_drop", "agreement", "gain", *TIMED),
    "export": ("accuracy", "accuracy_drop", "agreement", "size_mb", "max_abs_diff", "latency_ms"),
}
# How many times too fast or too slow an unsteady session may be: bounds further off than that are decided.
UNSTEADY = 2.0
_CLASSES = ("accuracy", "ece", "top5", "balanced_accuracy", "macro_f1", "loss")
UNSTABLE = "the times are not stable"
_TASKS: dict[str, tuple[str, ...]] = {
    "classification": _CLASSES,
    "segmentation": ("accuracy", "loss", "mean_iou"),
    "multilabel": ("accuracy", "loss", "macro_f1", "micro_f1", "mean_average_precision"),
    "regression": ("loss", "mae", "rmse", "r2", "psnr"),
}


def choose_gates(
    command: str,
    given: Sequence[str | Gate],
    section: GatesSection,
    *,
    on_event: OnEvent,
    teacher: bool = True,
    latency: bool = True,
) -> tuple[Gate, ...]:
    """The gates that a command is going to judge: those given to it, and those of the recipe that it can.

    Args:
        command: one of `COMMANDS`.
        given: gates, or texts such as `accuracy>=0.97`; each must be measurable here.
        section: the recipe's; of one figure the given gate wins.
        on_event: told which gates of the recipe another command checks.
        teacher: whether there is one.
        latency: whether models are timed.

    Raises:
        UsageError: a given gate that this command, or these options, cannot measure.
    """
    gates = [parse_gate(gate) if isinstance(gate, str) else gate for gate in given]
    for gate in gates:
        why, hint = _missing(command, gate.metric, teacher=teacher, latency=latency)
        if why:
            raise UsageError(f"gate {gate.metric} {gate.text}: {why}", hint=hint)
    named = {gate.metric for gate in gates}
    for gate in section.gates():
        if gate.metric in named:
            continue
        why, hint = _missing(command, gate.metric, teacher=teacher, latency=latency)
        if not why:
            gates.append(gate)
        else:
            on_event(Note(f"gate {gate.metric} {gate.text} is not checked here: checked by {hint}"))
    return tuple(gates)


def _missing(command: str, metric: str, *, teacher: bool, latency: bool) -> tuple[str, str]:
    """Why a figure is not measured, and what measures it; empty where it is."""
    if metric not in COMMANDS[command]:
        other = next(name for name in COMMANDS if metric in COMMANDS[name])
        option = " --latency" if other == "evaluate" and metric in TIMED else ""
        return f"kd {command} does not measure it", f"kd {other}{option}"
    if metric in TIMED and not latency:
        return "nothing is timed", f"kd {command} --latency"
    if metric in OF_TEACHER and not teacher:
        return "there is no teacher to compare with", f"kd {command} --teacher FILE"
    return "", ""


def check_task(
    gates: Sequence[Gate], task: str, *, labelled: bool = True, drop_as_agreement: bool = False
) -> None:
    """Refuse gates on figures that a task does not have.

    Args:
        gates: of a command.
        task: of the data.
        labelled: whether it has labels.
        drop_as_agreement: whether `accuracy_drop` bounds the share of changed decisions where there are none.

    Raises:
        UsageError: naming those it has.
    """
    decides = task != "regression"
    known = [*(_TASKS[task] if labelled else ()), *(("agreement",) if decides else ())]
    if decides and (labelled or drop_as_agreement):
        known += ["accuracy_drop", "gain"]
    for gate in gates:
        if gate.metric in (*_QUALITY, "accuracy_drop", "gain", "agreement") and gate.metric not in known:
            kind = task if labelled else f"unlabelled {task}"
            raise UsageError(
                f"gate {gate.metric} {gate.text}: not a figure of {kind}",
                hint=f"figures: {', '.join(known)}" if known else "size_mb and latency_ms need no labels",
            )


def figures(
    quality: Quality,
    *,
    size: int,
    parameters: int | None,
    teacher_accuracy: float | None = None,
    flops: int | None = None,
    latency: Timing | None = None,
    latency_ratio: float | None = None,
) -> dict[str, float | None]:
    """What gates know of one model, by their names.

    Args:
        quality: on the split.
        size: bytes of the file.
        parameters, flops: None where they cannot be counted.
        teacher_accuracy: on the same split.
        latency: of the timed model.
        latency_ratio: its median over the teacher's.
    """
    found: dict[str, float | None] = {name: quality.figure(name) for name in (*_QUALITY, "agreement")}
    drop = None
    if teacher_accuracy is not None and quality.accuracy is not None:
        drop = teacher_accuracy - quality.accuracy
    found |= {"size_mb": size / 1e6, "parameters": parameters, "flops": flops, "accuracy_drop": drop}
    if latency is not None:
        found |= {"latency_ms": latency.p50_ms, "examples_per_second": latency.examples_per_second}
        found["latency_ratio"] = latency_ratio
    return found


def judge(
    gates: Sequence[Gate], models: Mapping[str, Mapping[str, float | None]], *, doubts: Sequence[str] = ()
) -> tuple[GateResult, ...]:
    """Every gate on every model.

    Args:
        gates: as `choose_gates` gives them.
        models: figures by the model's name; a figure that is missing or NaN fails its gate. Models that were
            not timed are passed over by latency gates where others were.
        doubts: why the latency session was not stable: a gate whose value is within a factor of 2 of its bound
            is inconclusive then.
    """
    results = []
    for gate in gates:
        timed = {name: known for name, known in models.items() if gate.metric in known}
        for name, known in ((timed or models) if gate.metric in TIMED else models).items():
            results.append(_judged(gate, name, known.get(gate.metric), doubts))
    return tuple(results)


def _judged(gate: Gate, model: str, value: float | None, doubts: Sequence[str]) -> GateResult:
    state: Literal["passed", "failed", "inconclusive"] = "failed"
    if value is None or not math.isfinite(value):
        return GateResult(gate.metric, None, gate.text, state, model, "no such figure was measured")
    if gate.metric in TIMED and doubts and gate.holds(value / UNSTEADY) != gate.holds(value * UNSTEADY):
        return GateResult(gate.metric, value, gate.text, "inconclusive", model, UNSTABLE)
    state = "passed" if gate.holds(value) else "failed"
    return GateResult(gate.metric, value, gate.text, state, model)
