"""Select the gates that a command can check, and judge models by them."""

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

# The metrics that each command measures.
METRICS_OF_COMMAND: dict[str, tuple[str, ...]] = {
    command: tuple(name for name, metric in METRICS.items() if command in metric.commands)
    for command in ("distill", "evaluate", "compare", "export", "shrink", "quantize", "compress")
}
# The arguments that a suggested command needs at least.
_ARGUMENTS = {
    "distill": "--teacher FILE --student FILE --data D",
    "evaluate": "MODEL",
    "compare": "--distilled RUN",
    "export": "MODEL --format litert",
    "shrink": "TEACHER --keep 0.5",
    "quantize": "RUN",
    "compress": "MODEL --data D",
}
_State = Literal["passed", "failed", "inconclusive"]
# An unstable session may be off by this factor; values further than that from their bound are still judged.
UNSTEADY_FACTOR = 2.0
UNSTABLE_TIMES = "the latency measurement is not stable"


def choose_gates(
    command: str,
    requested: Sequence[str | Gate],
    section: GatesSection,
    *,
    on_event: OnEvent,
    teacher: bool = True,
    latency: bool = True,
) -> tuple[Gate, ...]:
    """The gates that a command will judge: all requested ones, and those of the recipe that it can measure.

    Args:
        command: a key of `METRICS_OF_COMMAND`.
        requested: gates, or texts such as `accuracy>=0.97`; the command must be able to measure each of them.
        section: the recipe's gates; a requested gate replaces the recipe's gate on the same metric.
        on_event: receives a note for each gate of the recipe that another command checks.
        teacher: whether there is a teacher.
        latency: whether latency is measured.

    Raises:
        UsageError: this command, or these options, cannot measure the metric of a requested gate.
    """
    gates = [parse_gate(gate) if isinstance(gate, str) else gate for gate in requested]
    for gate in gates:
        why, _, hint = _explain_unmeasured(command, gate, teacher=teacher, latency=latency)
        if why:
            raise UsageError(f"gate {gate.metric} {gate.text}: {why}", hint=hint.removeprefix(f"kd {command} "))
    named = {gate.metric for gate in gates}
    for gate in section.gates():
        if gate.metric in named:
            continue
        why, other, _ = _explain_unmeasured(command, gate, teacher=teacher, latency=latency)
        if not why:
            gates.append(gate)
        else:
            on_event(Note(f"gate {gate.metric} {gate.text} is not checked here, but by {other}"))
    return tuple(gates)


def _format_option(gate: Gate) -> str:
    return f"--gate '{gate.metric}{gate.text.replace(' ', '')}'"


def _explain_unmeasured(command: str, gate: Gate, *, teacher: bool, latency: bool) -> tuple[str, str, str]:
    """Why a metric is not measured, the command that measures it, and the hint; empty if it is measured."""
    metric, option = METRICS[gate.metric], _format_option(gate)
    if command not in metric.commands:
        other = metric.commands[0]
        timed = " --latency" if other == "evaluate" and metric.timed else ""
        why = f"kd {command} does not measure it"
        if gate.metric == "gain":
            why += ", because only kd compare trains the baseline"
        shown = f"kd {other}{' MODEL' if timed else ''}{timed}"
        return why, shown, f"kd {other} {_ARGUMENTS[other]}{timed} {option}"
    if metric.timed and not latency:
        return "latency is not measured", f"kd {command} --latency", f"kd {command} --latency"
    if metric.of_teacher and not teacher:
        why = "there is no teacher to compare with"
        if command != "export":
            return why, f"kd {command} --teacher FILE", f"kd {command} --teacher FILE"
        suffix = gate.metric.removeprefix("accuracy_")
        hint = f"--gate 'export_{suffix}{gate.text.replace(' ', '')}' compares with the exported model itself"
        evaluate = f"kd evaluate {_ARGUMENTS['evaluate']} --teacher FILE"
        return why, "kd evaluate --teacher FILE", f"{evaluate} --latency" if metric.timed else hint
    return "", "", ""


def check_gate_metrics(command: str, gates: Sequence[Gate], task: str, *, labelled: bool = True) -> None:
    """Refuse gates on metrics that a task does not have.

    Args:
        command: a key of `METRICS_OF_COMMAND`.
        gates: the gates to check.
        task: task of the data.
        labelled: whether the data has labels.

    Raises:
        UsageError: with the list of the metrics that the task has.
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
                f"gate {gate.metric} {gate.text}: not a metric of {kind} data",
                hint=f"metrics: {', '.join(known)}" if known else "size_mb and latency_ms need no labels",
            )


def check_size_gates(gates: Sequence[Gate], least: int, *, name: str) -> None:
    """Refuse gates on the size that no exported file of a model can pass.

    Args:
        gates: gates of kd distill.
        least: bytes of the smallest possible file with these weights.
        name: name of the model.

    Raises:
        UsageError: the weights alone exceed the bound.
    """
    for gate in gates:
        if gate.metric == "size_mb" and gate.sign[0] == "<" and not gate.holds(least / 1e6):
            raise UsageError(
                f"gate size_mb {gate.text}: the kernels of {name} alone take {least / 1e6:.6g} MB in the smallest "
                "format (int8)",
                hint="use a smaller student, or a larger bound",
            )


def describe_export_gates(gates: Sequence[Gate], run: str) -> tuple[str, ...]:
    """A sentence for each gate of kd distill that must be checked on the exported file.

    Args:
        gates: gates of kd distill.
        run: the run directory.
    """
    return tuple(
        f"gate {gate.metric} {gate.text} applies to the exported file; check it with "
        f"kd export {run} --format litert {_format_option(gate)}"
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
    """The metrics of one model, by the names that gates use.

    Args:
        quality: quality on the split.
        size: bytes of the file.
        parameters, flops: None if they cannot be counted.
        teacher_accuracy: the teacher's accuracy on the same split.
        latency: timing of the model; None if it was not timed.
        latency_ratio: the median latency divided by the teacher's.
    """
    of_quality = {field.name for field in fields(Quality)}
    metrics: dict[str, float | None] = {name: quality.metric(name) for name in METRICS if name in of_quality}
    drop = None
    if teacher_accuracy is not None and quality.accuracy is not None:
        drop = teacher_accuracy - quality.accuracy
    metrics |= {"size_mb": size / 1e6, "parameters": parameters, "flops": flops, "accuracy_drop": drop}
    if latency is not None:
        metrics |= {"latency_ms": latency.p50_ms, "examples_per_second": latency.examples_per_second}
        metrics["latency_ratio"] = latency_ratio
    return metrics


def judge_gates(
    gates: Sequence[Gate],
    models: Mapping[str, Mapping[str, float | None]],
    *,
    doubts: Sequence[str] = (),
    unknown: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[GateResult, ...]:
    """Judge every model by every gate.

    Args:
        gates: the result of `choose_gates`.
        models: metrics by model file; a metric that is missing or NaN fails its gate. If some models were timed,
            latency gates skip those that were not.
        doubts: why the latency session is not stable. A latency gate is then inconclusive if the value is within a
            factor of 2 of the bound.
        unknown: why a metric cannot be measured, by model and metric; its gate is then inconclusive.
    """
    results = []
    for gate in gates:
        timed = {name: metrics for name, metrics in models.items() if gate.metric in metrics}
        judged = (timed or models) if METRICS[gate.metric].timed else models
        for name, metrics in judged.items():
            unmeasurable = (unknown or {}).get(name, {}).get(gate.metric)
            value, state, reason = _judge(gate, metrics.get(gate.metric), doubts, unmeasurable)
            results.append(
                GateResult(name=gate.metric, value=value, bound=gate.text, state=state, model=name, reason=reason)
            )
    return tuple(results)


def _judge(
    gate: Gate, value: float | None, doubts: Sequence[str], unknown: str | None
) -> tuple[float | None, _State, str]:
    """The value to report, the state, and the reason."""
    if value is None and unknown is not None:
        return None, "inconclusive", unknown
    if value is None or not math.isfinite(value):
        return None, "failed", "not measured" if value is None else f"the value is {value}"
    near = gate.holds(value / UNSTEADY_FACTOR) != gate.holds(value * UNSTEADY_FACTOR)
    if METRICS[gate.metric].timed and doubts and near:
        return value, "inconclusive", UNSTABLE_TIMES
    return value, "passed" if gate.holds(value) else "failed", ""
