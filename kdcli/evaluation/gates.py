"""Which gates a command can judge, and what its figures make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Literal

from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent
from kdcli.recipe.gates import METRICS, Gate, GatesSection, parse_gate
from kdcli.runs.gate_results import GateResult
from kdcli.runs.latency_results import Timing
from kdcli.runs.results import Quality

# What each command measures of a model.
METRICS_OF_COMMAND: dict[str, tuple[str, ...]] = {
    command: tuple(name for name, metric in METRICS.items() if command in metric.commands)
    for command in ("distill", "evaluate", "compare", "export")
}
# What each of them needs on its command line.
_WORDS = {
    "distill": "--teacher FILE --student FILE --data D",
    "evaluate": "MODEL",
    "compare": "--distilled RUN",
    "export": "MODEL --format litert",
}
# How many times too fast or too slow an unsteady session may be: bounds further off than that are decided.
UNSTEADY_FACTOR = 2.0
UNSTABLE_TIMES = "the times are not stable"


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
        why, _, hint = _missing(command, gate, teacher=teacher, latency=latency)
        if why:
            raise UsageError(f"gate {gate.metric} {gate.text}: {why}", hint=hint.removeprefix(f"kd {command} "))
    named = {gate.metric for gate in gates}
    for gate in section.gates():
        if gate.metric in named:
            continue
        why, other, _ = _missing(command, gate, teacher=teacher, latency=latency)
        if not why:
            gates.append(gate)
        else:
            on_event(Note(f"gate {gate.metric} {gate.text} is not checked here: checked by {other}"))
    return tuple(gates)


def _option(gate: Gate) -> str:
    return f"--gate '{gate.metric}{gate.text.replace(' ', '')}'"


def _missing(command: str, gate: Gate, *, teacher: bool, latency: bool) -> tuple[str, str, str]:
    """Why a metric is not measured, the command that measures it, and what to type; empty where it is measured."""
    metric, option = METRICS[gate.metric], _option(gate)
    if command not in metric.commands:
        other = metric.commands[0]
        timed = " --latency" if other == "evaluate" and metric.timed else ""
        why = f"kd {command} does not measure it"
        if gate.metric == "gain":
            why += ", since only kd compare trains the same student alone"
        seen = f"kd {other}{' MODEL' if timed else ''}{timed}"
        return why, seen, f"kd {other} {_WORDS[other]}{timed} {option}"
    if metric.timed and not latency:
        return "nothing is timed", f"kd {command} --latency", f"kd {command} --latency"
    if metric.of_teacher and not teacher:
        why = "there is no teacher to compare with"
        if command != "export":
            return why, f"kd {command} --teacher FILE", f"kd {command} --teacher FILE"
        own = gate.metric.removeprefix("accuracy_")
        hint = f"--gate 'export_{own}{gate.text.replace(' ', '')}' compares with the model itself"
        evaluating = f"kd evaluate {_WORDS['evaluate']} --teacher FILE"
        return why, "kd evaluate --teacher FILE", f"{evaluating} --latency" if metric.timed else hint
    return "", "", ""


def check_gate_metrics(command: str, gates: Sequence[Gate], task: str, *, labelled: bool = True) -> None:
    """Refuse gates on metrics that a task does not have.

    Args:
        command: one of `COMMANDS`.
        gates: of it.
        task: of the data.
        labelled: whether it has labels.

    Raises:
        UsageError: naming those it has.
    """
    known = [
        name
        for name in METRICS_OF_COMMAND[command]
        if task in METRICS[name].tasks and (labelled or not METRICS[name].labelled)
    ]
    for gate in gates:
        if METRICS[gate.metric].tasks and gate.metric not in known:
            kind = task if labelled else f"unlabelled {task}"
            raise UsageError(
                f"gate {gate.metric} {gate.text}: not a figure of {kind}",
                hint=f"figures: {', '.join(known)}" if known else "size_mb and latency_ms need no labels",
            )


def check_size_gates(gates: Sequence[Gate], least: int, *, name: str) -> None:
    """Refuse gates on the size that no file of a model can keep.

    Args:
        gates: of kd distill.
        least: bytes of the smallest file of these weights.
        name: of the model.

    Raises:
        UsageError: the weights alone exceed the bound.
    """
    for gate in gates:
        if gate.metric == "size_mb" and gate.sign[0] == "<" and not gate.holds(least / 1e6):
            raise UsageError(
                f"gate size_mb {gate.text}: the kernels of {name} alone take {least / 1e6:.6g} MB in the smallest "
                "format (int8)",
                hint="a smaller student, or a larger bound",
            )


def describe_export_gates(gates: Sequence[Gate], run: str) -> tuple[str, ...]:
    """Which gates of kd distill are checked on the exported file, and how.

    Args:
        gates: of kd distill.
        run: its directory.
    """
    return tuple(
        f"gate {gate.metric} {gate.text} is about the file that ships: checked by kd export {run} --format litert "
        f"{_option(gate)}"
        for gate in gates
        if gate.metric == "size_mb"
    )


def collect_metrics(
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
    own = {field.name for field in fields(Quality)}
    found: dict[str, float | None] = {name: quality.metric(name) for name in METRICS if name in own}
    drop = None
    if teacher_accuracy is not None and quality.accuracy is not None:
        drop = teacher_accuracy - quality.accuracy
    found |= {"size_mb": size / 1e6, "parameters": parameters, "flops": flops, "accuracy_drop": drop}
    if latency is not None:
        found |= {"latency_ms": latency.p50_ms, "examples_per_second": latency.examples_per_second}
        found["latency_ratio"] = latency_ratio
    return found


def judge_gates(
    gates: Sequence[Gate],
    models: Mapping[str, Mapping[str, float | None]],
    *,
    doubts: Sequence[str] = (),
    unknown: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[GateResult, ...]:
    """Every gate on every model.

    Args:
        gates: as `choose_gates` gives them.
        models: metrics by the model's file; a metric that is missing or NaN fails its gate. Models that were
            not timed are passed over by latency gates where others were.
        doubts: why the latency session was not stable: a gate whose value is within a factor of 2 of its bound
            is inconclusive then.
        unknown: by model and metric, why it cannot be measured: its gate is inconclusive then.
    """
    results = []
    for gate in gates:
        timed = {name: known for name, known in models.items() if gate.metric in known}
        for name, known in ((timed or models) if METRICS[gate.metric].timed else models).items():
            reason = (unknown or {}).get(name, {}).get(gate.metric)
            results.append(_judged(gate, name, known.get(gate.metric), doubts, reason))
    return tuple(results)


def _judged(gate: Gate, model: str, value: float | None, doubts: Sequence[str], unknown: str | None) -> GateResult:
    state: Literal["passed", "failed", "inconclusive"] = "failed"
    if value is None and unknown is not None:
        return GateResult(gate.metric, None, gate.text, "inconclusive", model, unknown)
    if value is None or not math.isfinite(value):
        reason = "no such figure was measured" if value is None else f"it is {value}"
        return GateResult(gate.metric, None, gate.text, state, model, reason)
    if (
        METRICS[gate.metric].timed
        and doubts
        and gate.holds(value / UNSTEADY_FACTOR) != gate.holds(value * UNSTEADY_FACTOR)
    ):
        return GateResult(gate.metric, value, gate.text, "inconclusive", model, UNSTABLE_TIMES)
    state = "passed" if gate.holds(value) else "failed"
    return GateResult(gate.metric, value, gate.text, state, model)
