"""The report of a comparison: metrics, sizes and latency of every arm, gates, the picked model, and the files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.comparison.arms import Arm
from kdcli.comparison.gains import Judge
from kdcli.comparison.latency import TEACHER_NAME, ArmLatencies, read_earlier_latency, time_arms
from kdcli.comparison.tables import render_markdown
from kdcli.comparison.teacher import ComparedTeacher, open_compared_teacher
from kdcli.comparison.train_arms import ArmTraining
from kdcli.data.dataset import Dataset
from kdcli.data.duplicates import count_duplicates
from kdcli.evaluation.footprint import count_flops
from kdcli.evaluation.gates import collect_metrics, judge_gates
from kdcli.evaluation.quality import MAIN_METRIC
from kdcli.evaluation.statistics import smallest_visible_gain
from kdcli.models.files.open import open_file
from kdcli.models.network import Network
from kdcli.recipe.gates import METRICS, Gate
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs import writer
from kdcli.runs.comparison_directory import ComparisonDirectory
from kdcli.runs.comparison_results import ComparedStudent, Comparison
from kdcli.runs.directory import RECIPE_FILE
from kdcli.runs.gate_results import GateResult
from kdcli.runs.latency_results import Timing
from kdcli.runs.results import Quality, relativize_path
from kdcli.runs.run_environment import collect_versions, describe_machine
from kdcli.screening.verdict import Trust
from kdcli.setup.fit_to_data import fit_to_data
from kdcli.setup.open_models import apply_recorded_settings, choice_of
from kdcli.setup.startup import device_record, strategy_for


def write_report(
    arms: Sequence[Arm],
    training: ArmTraining,
    directory: ComparisonDirectory,
    dataset: Dataset,
    *,
    latency: bool,
    gates: Mapping[str, Sequence[Gate]],
) -> Comparison:
    """Judge the finished runs, time one model of each arm, and write `compare.json` and `compare.md`.

    Args:
        arms: baselines and distilled arms.
        training: the finished runs.
        directory: the comparison directory.
        dataset: data with the test split.
        latency: whether to time the models.
        gates: gates by the name of the distilled arm; they are judged on the means over its runs.
    """
    request = next(arm.request for arm in arms if arm.baseline is not None)
    teacher = open_compared_teacher(request, dataset, training.context)
    judge = _make_judge(arms, training, teacher, dataset)
    students = judge.judge_students()
    networks = _open_networks(arms, judge, teacher, dataset)
    timed = read_earlier_latency(directory.earlier(), students) or ArmLatencies()
    if latency and not timed.latency:
        timed = time_arms(
            networks, students, dataset, seed=request.recipe.data_seed, on_event=training.context.on_event
        )
    test = dataset.test
    assert test is not None
    disagreement = judge.measure_disagreement()
    comparison = Comparison(
        repeats=max(len(arm.seeds) for arm in arms),
        metric=judge.metric,
        examples=len(test),
        duplicates=count_duplicates(dataset.train, test),
        start=_find_start(arms),
        teacher=_describe_teacher(teacher, judge.metric, timed),
        students=tuple(_add_measurements(student, networks, timed.latency) for student in students),
        latency_noise_floor=timed.floor,
        latency_doubts=timed.doubts,
        smallest_visible_gain=None if disagreement is None else smallest_visible_gain(len(test), disagreement),
        disagreement=disagreement,
        picked=judge.pick_model(),
        notes=tuple(_describe_selection(arms, training)),
        environment={
            "versions": collect_versions(),
            "machine": describe_machine(),
            **device_record(strategy_for(request.recipe.train.devices)),
        },
        out=directory.path,
    )
    results = _judge_gates(comparison, dataset, teacher.quality.accuracy, timed, gates)
    comparison = replace(comparison, gates=results)
    document = comparison.to_json()
    writer.write_text(directory.tables, render_markdown(document))
    writer.write_text(directory.report, json.dumps(document, indent=2) + "\n")
    return comparison


def _find_start(arms: Sequence[Arm]) -> str:
    """What pairs start from: `fresh`, `file`, `inherited`, or `mixed` if only some inherit."""
    starts = [arm.request.recipe.student.start for arm in arms if arm.baseline is not None]
    return starts[0] if "inherited" not in starts or len(set(starts)) == 1 else "mixed"


def _make_judge(arms: Sequence[Arm], training: ArmTraining, teacher: ComparedTeacher, dataset: Dataset) -> Judge:
    test, correct = dataset.test, None
    assert test is not None
    if teacher.logits is not None and dataset.task == "classification":
        order = np.argsort(test.rows, kind="stable")
        correct = (teacher.logits.argmax(-1) == test.all_labels())[order]
    return Judge(
        arms,
        training.finished,
        {name: error.message for name, error in training.failed.items()},
        task=dataset.task,
        teacher_score=teacher.quality.metric(MAIN_METRIC[dataset.task]),
        teacher_correct=correct,
    )


def _describe_teacher(teacher: ComparedTeacher, metric: str, timed: ArmLatencies) -> dict[str, Any]:
    quality = teacher.quality
    return {
        **teacher.to_json(),
        "metric": metric,
        "score": quality.metric(metric),
        "accuracy": quality.accuracy,
        "low": quality.low,
        "high": quality.high,
        "at_chance": quality.at_chance,
        "latency": timed.latency.get(TEACHER_NAME),
    }


def _judge_gates(
    comparison: Comparison,
    dataset: Dataset,
    teacher_accuracy: float | None,
    timed: ArmLatencies,
    gates: Mapping[str, Sequence[Gate]],
) -> tuple[GateResult, ...]:
    """Judge each distilled arm by the means over its runs; size and latency by its first model."""
    results: list[GateResult] = []
    for student in comparison.students:
        if student.baseline is None:
            continue
        metrics = _collect_arm_metrics(student, dataset, teacher_accuracy, timed.summarize(student.name))
        why = (student.latency or {}).get("no_ratio")
        unknown = {student.name: {"latency_ratio": why}} if why else {}
        files = tuple(relativize_path(run.model) for run in student.runs)
        for result in judge_gates(
            gates[student.name], {student.name: metrics}, doubts=timed.doubts, unknown=unknown
        ):
            measured = files if METRICS[result.name].tasks else files[:1]
            model = measured[0] if len(measured) == 1 else result.model
            results.append(replace(result, model=model, files=measured))
    return tuple(results)


def _collect_arm_metrics(
    student: ComparedStudent, dataset: Dataset, teacher_accuracy: float | None, timing: Timing | None
) -> dict[str, float | None]:
    """The metrics of an arm for its gates; empty if it failed."""
    if student.bytes is None:
        return {}
    assert dataset.test is not None
    means: dict[str, Any] = student.test
    quality = Quality(dataset.task, len(dataset.test), **means, agreement=student.agreement)
    ratio = student.latency["ratio"] if student.latency else None
    metrics = collect_metrics(
        quality,
        size=student.bytes,
        parameters=student.parameters,
        teacher_accuracy=teacher_accuracy,
        flops=student.flops,
        latency=timing,
        latency_ratio=ratio["value"] if ratio else None,
    )
    return metrics | {"gain": student.gain.mean if student.gain else None}


def _describe_selection(arms: Sequence[Arm], training: ArmTraining) -> list[str]:
    """A note if the runs have different validation splits."""
    splits = {
        (
            arm.request.recipe.data.validation,
            str(arm.request.recipe.data.limit),
            seed if arm.splits_per_seed else None,
        )
        for arm in arms
        for seed in training.finished.get(arm.name, {})
    }
    if len(splits) < 2:
        return []
    return [
        "runs were selected on different validation splits, so the picked model was ranked on different examples"
    ]


def _open_networks(
    arms: Sequence[Arm], judge: Judge, teacher: ComparedTeacher, dataset: Dataset
) -> dict[str, Network]:
    """The first model of each arm, and the teacher if it can be timed."""
    networks = {} if teacher.network is None else {TEACHER_NAME: teacher.network}
    for arm in arms:
        runs = judge.list_runs(arm)
        if runs:
            networks[arm.name] = _open_network(runs[0].model, dataset, arm.request.trust)
    return networks


def _open_network(model: Path, dataset: Dataset, trust: Trust) -> Network:
    recipe = read_run_recipe(model.parent / RECIPE_FILE)
    section = apply_recorded_settings(recipe.student, recipe.student)
    return fit_to_data(
        open_file(model, trust=trust, part=choice_of(section)).network,
        dataset.train,
        task=dataset.task,
        outputs=dataset.outputs,
        section=section,
        role="student",
        measured=False,
        seed=recipe.train.seed,
        on_event=lambda event: None,
    )


def _add_measurements(
    student: ComparedStudent, networks: Mapping[str, Network], timed: Mapping[str, dict[str, Any]]
) -> ComparedStudent:
    network = networks.get(student.name)
    if network is None:
        return student
    return replace(student, flops=count_flops(network), latency=timed.get(student.name))
