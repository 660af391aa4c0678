"""The end of a comparison: figures of every arm, sizes, latency, the picked model, and the files."""

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
from kdcli.comparison.teacher import open_compared_teacher
from kdcli.comparison.train_arms import ArmTraining
from kdcli.data.dataset import Dataset
from kdcli.data.duplicates import count_duplicates
from kdcli.evaluation.footprint import count_flops
from kdcli.evaluation.gates import collect_metrics, judge_gates
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
from kdcli.runs.records import collect_versions, describe_machine
from kdcli.runs.results import Quality, relativize_path
from kdcli.screening.verdict import Trust
from kdcli.setup.fit_to_data import fit_to_data
from kdcli.setup.open_models import apply_recorded_settings, choice_of
from kdcli.setup.startup import device_record, strategy_for


def write_report(
    arms: Sequence[Arm],
    trainings: ArmTraining,
    location: ComparisonDirectory,
    dataset: Dataset,
    *,
    latency: bool,
    gates: Mapping[str, Sequence[Gate]],
) -> Comparison:
    """Judge the finished runs, time one model of each arm, and write `compare.json` and `compare.md`.

    The gates of each distilled arm are judged by its means over the runs.
    """
    context = trainings.context
    request = next(arm.request for arm in arms if arm.baseline is not None)
    test = dataset.test
    assert test is not None
    teacher = open_compared_teacher(request, dataset, context)
    quality = teacher.quality
    failed = {name: error.message for name, error in trainings.failed.items()}
    verdicts = Judge(arms, trainings.finished, failed, task=dataset.task)
    right = None
    if teacher.logits is not None and dataset.task == "classification":
        order = np.argsort(test.rows, kind="stable")
        right = (teacher.logits.argmax(-1) == test.all_labels())[order]
    students = verdicts.students(quality.metric(verdicts.metric), right)
    disagreement = verdicts.disagreement()
    networks = _networks(verdicts, arms, dataset)
    if teacher.network is not None:
        networks = {TEACHER_NAME: teacher.network, **networks}
    timed = read_earlier_latency(location.earlier(), students) or ArmLatencies()
    if latency and not timed.latency:
        seed = request.recipe.data_seed
        timed = time_arms(networks, students, dataset, seed=seed, on_event=context.on_event)
    comparison = Comparison(
        repeats=max(len(arm.seeds) for arm in arms),
        metric=verdicts.metric,
        examples=len(test),
        duplicates=count_duplicates(dataset.train, test),
        start=request.recipe.student.start,
        teacher={
            **teacher.to_json(),
            "metric": verdicts.metric,
            "score": quality.metric(verdicts.metric),
            "accuracy": quality.accuracy,
            "low": quality.low,
            "high": quality.high,
            "at_chance": quality.at_chance,
            "latency": timed.latency.get(TEACHER_NAME),
        },
        students=tuple(_measured(student, networks, timed.latency) for student in students),
        latency_noise_floor=timed.floor,
        latency_doubts=timed.doubts,
        smallest_visible_gain=None if disagreement is None else smallest_visible_gain(len(test), disagreement),
        disagreement=disagreement,
        picked=verdicts.best(),
        notes=tuple(_about_selection(arms, trainings)),
        environment={
            "versions": collect_versions(),
            "machine": describe_machine(),
            **device_record(strategy_for(request.recipe.train.devices)),
        },
        out=location.path,
    )
    results = _judged(comparison, dataset, quality.accuracy, timed, gates)
    comparison = replace(comparison, gates=results)
    document = comparison.to_json()
    writer.write_text(location.tables, render_markdown(document))
    writer.write_text(location.report, json.dumps(document, indent=2) + "\n")
    return comparison


def _judged(
    comparison: Comparison,
    dataset: Dataset,
    teacher_accuracy: float | None,
    timed: ArmLatencies,
    gates: Mapping[str, Sequence[Gate]],
) -> tuple[GateResult, ...]:
    """The gates of each distilled arm, on the means over its runs, or on its first model, which was timed."""
    results: list[GateResult] = []
    for student in comparison.students:
        if student.baseline is None:
            continue
        known = _known(student, dataset, teacher_accuracy, timed.summarize(student.name))
        why = (student.latency or {}).get("no_ratio")
        unknown = {student.name: {"latency_ratio": why}} if why else {}
        files = tuple(relativize_path(run.model) for run in student.runs)
        for row in judge_gates(gates[student.name], {student.name: known}, doubts=timed.doubts, unknown=unknown):
            # Of size and speed one file stands for all.
            measured = files if METRICS[row.name].tasks else files[:1]
            results.append(replace(row, model=measured[0] if len(measured) == 1 else row.model, files=measured))
    return tuple(results)


def _known(
    student: ComparedStudent, dataset: Dataset, teacher_accuracy: float | None, timing: Timing | None
) -> dict[str, float | None]:
    """What gates know of an arm; one that failed has nothing to show."""
    if student.bytes is None:
        return {}
    assert dataset.test is not None
    means: dict[str, Any] = student.test
    quality = Quality(dataset.task, len(dataset.test), **means, agreement=student.agreement)
    ratio = student.latency["ratio"] if student.latency else None
    known = collect_metrics(
        quality,
        size=student.bytes,
        parameters=student.parameters,
        teacher_accuracy=teacher_accuracy,
        flops=student.flops,
        latency=timing,
        latency_ratio=ratio["value"] if ratio else None,
    )
    return known | {"gain": student.gain.mean if student.gain else None}


def _about_selection(arms: Sequence[Arm], trainings: ArmTraining) -> list[str]:
    """A note where runs were selected on different examples."""
    splits = {
        (
            arm.request.recipe.data.validation,
            str(arm.request.recipe.data.limit),
            seed if arm.splits_per_seed else None,
        )
        for arm in arms
        for seed in trainings.finished.get(arm.name, {})
    }
    if len(splits) < 2:
        return []
    return ["runs were selected on different validation splits: the pick ranks figures of different examples"]


def _networks(verdicts: Judge, arms: Sequence[Arm], dataset: Dataset) -> dict[str, Network]:
    """One model of each arm that has any, behind the preparation that its run recorded."""
    networks = {}
    for arm in arms:
        runs = verdicts.runs(arm)
        if runs:
            networks[arm.name] = _network(runs[0].model, dataset, arm.request.trust)
    return networks


def _network(model: Path, dataset: Dataset, trust: Trust) -> Network:
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


def _measured(
    student: ComparedStudent, networks: Mapping[str, Network], timed: Mapping[str, dict[str, Any]]
) -> ComparedStudent:
    network = networks.get(student.name)
    if network is None:
        return student
    return replace(student, flops=count_flops(network), latency=timed.get(student.name))
