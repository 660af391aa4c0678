"""The plan of a search: candidates, measured times and the schedule that follows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli.compression.candidates import Candidate, CandidateSearch
from kdcli.compression.costs import measure_costs
from kdcli.compression.record import SearchRecord, list_open
from kdcli.compression.request import BUDGET_SECONDS, DEFAULT_DROP, CompressRequest
from kdcli.compression.schedule import Length, SearchSchedule, plan_schedule
from kdcli.compression.subject import SearchSubject, open_subject
from kdcli.compression.teacher_latency import find_latency_bound
from kdcli.events import Note
from kdcli.models.files.format import resolve_model_file
from kdcli.runs.run_environment import hash_arrays, hash_file, hash_model
from kdcli.runs.search_directory import SearchDirectory
from kdcli.training.loop import steps_per_epoch
from kdcli.zoo import File


def plan_search(
    subject: SearchSubject,
    compress: CompressRequest,
    directory: SearchDirectory,
    *,
    requested: dict[str, Any],
    inputs: dict[str, str],
    began: float,
) -> SearchRecord:
    """Find the candidates, measure times and make the schedule.

    Args:
        subject: data and teacher.
        compress: targets and budget.
        directory: where untrained students are written, unless this is a dry run.
        requested, inputs: as in `SearchRecord`.
        began: when the command started, as `time.perf_counter` gives it.

    Raises:
        UsageError: no student meets the targets, or the budget is too small.
        ModelError: no candidate can be made or trained.
    """
    context = subject.request.context
    for text in subject.findings:
        context.on_event(Note(text))
    max_drop, findings = choose_drop(subject, compress)
    allowed = choose_allowed_drop(subject, compress, max_drop)
    latency = find_latency_bound(subject, compress)
    since = time.perf_counter()
    search = CandidateSearch(subject, compress, latency=latency)
    candidates = search.find(None if context.dry_run else directory)
    export_seconds = (time.perf_counter() - since) / max(1, len(candidates))
    waiting = list_open(candidates)
    costs = measure_costs(subject, waiting, out=directory.path, export_seconds=export_seconds)
    schedule = plan_schedule(
        [one.name for one in waiting],
        costs,
        _measure_length(subject, repeats=compress.repeats),
        budget=compress.budget or BUDGET_SECONDS,
        spent=time.perf_counter() - began,
    )
    candidates = _drop_unscheduled(candidates, schedule)
    record = SearchRecord(
        requested=requested,
        inputs=inputs,
        metric=subject.metric.name,
        max_drop=max_drop,
        allowed_drop=allowed,
        latency_bound_ms=latency.milliseconds,
        costs=costs,
        schedule=schedule,
        candidates={one.name: one for one in candidates},
        findings=[*subject.findings, *findings, *schedule.findings],
        seconds={"preparation": round(time.perf_counter() - began, 1)},
    )
    for text in (*findings, *describe_plan(candidates, schedule)):
        context.on_event(Note(text))
    return record


def _drop_unscheduled(candidates: Sequence[Candidate], schedule: SearchSchedule) -> list[Candidate]:
    return [
        one.drop("the budget is too small to train it")
        if one.is_open and one.name not in schedule.candidates
        else one
        for one in candidates
    ]


def choose_drop(subject: SearchSubject, compress: CompressRequest) -> tuple[float | None, list[str]]:
    """The bound on the drop, and a sentence if it was chosen here: without any other bound, one point.

    A metric that is not a fraction may become 5% worse.
    """
    targets, metric = compress.targets, subject.metric
    if targets.max_drop is not None or targets.on_cost or compress.gates:
        return targets.max_drop, []
    drop = DEFAULT_DROP if metric.is_fraction else 5 * DEFAULT_DROP * abs(metric.measure_teacher())
    return drop, [f"no target: searching for the smallest file whose {metric.name} is at most {drop:.4g} worse"]


def choose_allowed_drop(subject: SearchSubject, compress: CompressRequest, max_drop: float | None) -> float | None:
    """By how much a preferred candidate may be worse than the teacher: the bound, or what a gate leaves."""
    metric = subject.metric
    value = metric.measure_teacher()
    left = [abs(value - gate.bound) for gate in compress.gates if gate.metric == metric.name and gate.holds(value)]
    return min([*([] if max_drop is None else [max_drop]), *left], default=None)


def _measure_length(subject: SearchSubject, *, repeats: int) -> Length:
    dataset, train = subject.dataset, subject.request.recipe.train
    each, views = steps_per_epoch(len(dataset.train), train.batch_size), subject.request.recipe.teacher.views
    return Length(
        examples=len(dataset.train),
        held_out=len(subject.validation) + len(dataset.test or ()),
        validation=len(subject.validation),
        batch=min(train.batch_size, len(dataset.train)),
        epochs=train.epochs or max(1, (train.steps or 10 * each) // each),
        augmented=bool(subject.request.recipe.data.augment),
        repeats=repeats,
        views=views if isinstance(views, int) else 1 if views == "all" else None,
    )


def describe_plan(candidates: Sequence[Candidate], schedule: SearchSchedule) -> list[str]:
    """Notes on the dropped candidates, the length and the expected time."""
    texts = [f"dropped {one.name}: {one.reason}" for one in candidates if not one.is_open]
    count, minutes = len(schedule.candidates), schedule.seconds["total"] / 60
    length = f"{schedule.epochs} epochs ({schedule.steps:,} steps)"
    if count == 1:
        return [*texts, *schedule.findings, f"one candidate, {length}: about {minutes:.1f} minutes"]
    steps = ", ".join(f"{step:,}" for step in schedule.rungs)
    summary = f"{count} candidates, {length} for the best, compared at steps {steps}: about {minutes:.1f} minutes"
    return [*texts, *schedule.findings, summary]


def apply_schedule(subject: SearchSubject, compress: CompressRequest, schedule: SearchSchedule) -> SearchSubject:
    """The subject with the subset of examples that the schedule uses; the validation split stays as large."""
    if schedule.examples is None:
        return subject
    held_back, recipe = len(subject.validation), subject.request.recipe
    update: dict[str, Any] = {"limit": schedule.examples}
    if subject.is_validation_split_off:
        total = schedule.examples + held_back
        update = {"limit": total, "validation": held_back / total}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=update)})
    return open_subject(replace(compress, request=replace(subject.request, recipe=recipe)))


def hash_inputs(compress: CompressRequest) -> dict[str, str]:
    """The sha256 of everything but the data: models, given students and the user's Python files."""
    request = compress.request
    models = [section.model for section in request.recipe.teachers]
    files = {f"teacher.{at}": Path(model.path) for at, model in enumerate(models) if isinstance(model, File)}
    files |= {f"student.{at}": path for at, path in enumerate(compress.students)}
    hashes = {name: hash_model(resolve_model_file(path, trust=request.trust)) for name, path in files.items()}
    for role, model in request.models.items():
        hashes[role] = hash_arrays(weight.numpy() for weight in model.weights)
    return hashes | {f"code {path.name}": hash_file(path) for path in request.code}
