"""The plan: what a run is going to do, and the recipe with every `auto` written out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.stream import PREFETCH_BYTES
from kdcli.data.views import create_identity_views
from kdcli.distillation.pairing import Pair
from kdcli.distillation.terms import Term
from kdcli.evaluation.footprint import count_weight_bytes
from kdcli.evaluation.gates import describe_export_gates
from kdcli.evaluation.latency.short_session import run_short_session
from kdcli.jobs.export_formats import exportable_formats
from kdcli.jobs.job import Job
from kdcli.jobs.preflight import (
    loss_findings,
)
from kdcli.jobs.training import make_stepper
from kdcli.jobs.training_findings import training_findings
from kdcli.loss import Parts
from kdcli.models.keras.precision import compute_in
from kdcli.models.prediction import Predictor
from kdcli.models.variables import count_values, preserve_values
from kdcli.recipe.document import SettingPath, iterate_settings, join_path
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.runs.records import redact_document
from kdcli.runs.results import Plan
from kdcli.teacher.outputs import TeacherOutputs
from kdcli.teacher.split_logits import sample_examples


def settings_table(
    recipe: Recipe, origins: Origins, resolved: dict[SettingPath, Any]
) -> tuple[dict[str, Any], ...]:
    """Every setting with its value and where it came from."""
    values = redact_document(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    rows = []
    for path, value in iterate_settings(values):
        origin = "auto" if path in resolved and origins.of(path) == "default" else origins.of(path)
        rows.append({"path": join_path(path), "value": value, "origin": origin})
    return tuple(rows)


def pair_rows(terms: Sequence[Term]) -> tuple[dict[str, Any], ...]:
    """Which student layer learns from which teacher layer, through what, and what the loss owns for it.

    A loss that compares outputs is here when it has parts of its own, with `output` on both sides. `parts` stands
    in the first of a loss's rows: what it owns is there once, for all of its pairs.
    """
    rows = []
    for term in terms:
        pairs = zip(term.pairs, term.projections, strict=True)
        chosen = [(pair, made.text if made else None) for pair, made in pairs]
        parts = parts_text(term.parts)
        if parts and not chosen:
            chosen = [(Pair("output", "output", False), None)]
        for pair, projection in chosen:
            row = {"loss": term.loss.label, **asdict(pair)}
            rows.append({**row, "projection": projection, "parts": parts})
            parts = None
    return tuple(rows)


def parts_text(parts: Parts) -> str | None:
    """How many numbers a loss owns beside its settings: what learns with the student, and what only it changes."""
    learning = count_values(parts.trainable_variables)
    kept = {
        name.replace("_", " "): count_values(Parts(kept={name: part}).variables)
        for name, part in parts.kept.items()
    }
    # Statistics of batch normalisation are the rest of what is trained.
    kept["running statistics"] = count_values(parts.variables) - learning - sum(kept.values())
    words = [f"{learning} weights of its own"] if learning else []
    words += [f"{size} numbers of its {name}" for name, size in kept.items() if size]
    return ", ".join(words) or None


def merge_findings(findings: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Sentences about several teachers with the ends of their paths that differ, and what is said of each once.

    Args:
        findings: in the form `TEACHER: sentence` where they are about one of them.
        names: of the teachers.
    """
    short = _ends(names)
    told: dict[str, list[str]] = {}
    for finding in findings:
        who = next((name for name in names if finding.startswith(f"{name}: ")), None)
        sentence = finding if who is None else finding.removeprefix(f"{who}: ")
        told.setdefault(sentence, []).extend([] if who is None else [short[who]])
    found = [f"{', '.join(dict.fromkeys(who))}: {sentence}" if who else sentence for sentence, who in told.items()]
    for name in sorted(names, key=len, reverse=True):
        found = [sentence.replace(name, short[name]) for sentence in found]
    return tuple(found)


def _ends(names: Sequence[str]) -> dict[str, str]:
    """As much of the end of each path as tells it from the others."""
    parts = {name: name.split("/") for name in names}
    for length in range(1, max((len(one) for one in parts.values()), default=0) + 1):
        ends = {name: "/".join(one[-length:]) for name, one in parts.items()}
        if len(set(ends.values())) == len(parts):
            return ends
    return {name: name for name in names}


# Steps that a dry run times, after one that compiles, and examples that a plan times.
TIMED_STEPS, TIMED_EXAMPLES = 4, 16


def make_plan(job: Job, findings: tuple[str, ...], *, measured: bool) -> Plan:
    """The plan of a distillation (or of a teacher's training, whose `teacher` is None)."""
    dataset = job.dataset
    teacher_outputs = job.teacher_outputs
    targets = teacher_outputs.to_json() if teacher_outputs is not None else {}
    teachers = teacher_outputs.members if teacher_outputs is not None else ()
    teacher_parameters = sum(one.network.parameters or 0 for one in teachers)
    kept = min(teacher_outputs.bytes, RESIDENT_BYTES) if teacher_outputs is not None else 0
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    left = describe_export_gates(job.exported_gates, "RUN") if measured else ()
    # Weights, their gradients and two moments of the optimizer, in float32.
    data = dataset.train.bytes if dataset.train.bytes <= RESIDENT_BYTES else PREFETCH_BYTES
    memory = data + kept + 4 * (4 * job.trained.network.parameters + teacher_parameters)
    return Plan(
        settings=settings_table(job.recipe, job.request.origins, job.resolved),
        teacher=job.trained.to_json() if job.role == "teacher" else job.teacher.to_json() if job.teacher else None,
        student=_student(job) if job.role == "student" else None,
        pairs=pair_rows(job.terms),
        targets=targets,
        data={
            "name": dataset.name,
            "task": dataset.task,
            "outputs": dataset.outputs,
            "notes": list(dataset.notes),
            **{name: len(split) if split is not None else 0 for name, split in splits.items()},
        },
        steps=job.train.steps or 0,
        epochs=job.train.epochs or 0,
        memory_bytes=memory,
        student_bytes=count_weight_bytes(job.trained.network.parameters),
        student_formats=exportable_formats(job.trained.network),
        seconds=_measured_seconds(job) if measured else {"teacher": None, "training": None},
        findings=merge_findings(
            (
                *training_findings(job),
                *(teacher_outputs.texts if teacher_outputs is not None else ()),
                *findings,
                *_of_losses(job),
                *_notes(job),
                *left,
            ),
            names if len(names := [one.network.name for one in teachers]) > 1 else (),
        ),
    )


def _student(job: Job) -> dict[str, Any]:
    """The student with what one answer of it costs."""
    train, network = job.dataset.train, job.trained.network
    timed = run_short_session(network, train.take(np.arange(min(len(train), TIMED_EXAMPLES))))
    return {**job.trained.to_json(), **timed.to_json()}


def _of_losses(job: Job) -> tuple[str, ...]:
    return loss_findings(
        job.terms,
        student=job.trained.network,
        teacher=job.teacher_outputs.network if job.teacher_outputs is not None else None,
        replicas=job.strategy.num_replicas_in_sync,
        weighted=job.dataset.train.weights is not None,
    )


def _notes(job: Job) -> list[str]:
    """What the opened models have to say of themselves."""
    sides = [(job.role, job.trained)]
    if job.teacher_outputs is not None:
        several = len(job.teacher_outputs.members) > 1
        told = [(m.network.name if several else "teacher", m.opened) for m in job.teacher_outputs.members]
        sides = [*told, *sides]
    return [f"{role}: {text}" for role, side in sides for text in side.network.notes]


def _measured_seconds(job: Job) -> dict[str, float | None]:
    """What the whole would take, from one step (compiled first) and one batch of the teacher; weights go back."""
    teacher_outputs, network = job.teacher_outputs, job.trained.network
    examples, targets, teacher_seconds = job.dataset.train, None, None
    if teacher_outputs is not None:
        examples, targets = teacher_outputs.sample_targets()
        teacher_seconds = round(sum(_teacher_seconds(one) for one in teacher_outputs.members), 1)
    parts = [variable for term in job.terms for variable in term.variables]
    with preserve_values([*network.variables, *parts]), compute_in(network, job.train.precision):
        stepper = make_stepper(job, targets)
        batch = min(job.train.batch_size, len(job.dataset.train))
        stepper.start(
            np.resize(np.arange(min(256, len(examples))), (1 + TIMED_STEPS, batch)),
            table=job.views.table(0),
            slot=0,
        )
        stepper.run(1, first=0)
        since = time.perf_counter()
        stepper.run(TIMED_STEPS, first=1)
        each = (time.perf_counter() - since) / TIMED_STEPS
    stages = {
        "teacher": teacher_seconds,
        "training": round(each * (job.train.steps or 0), 1),
        "evaluation": round(_evaluation_seconds(job), 1),
    }
    return {**stages, "total": round(sum(seconds or 0.0 for seconds in stages.values()), 1)}


def _evaluation_seconds(job: Job) -> float:
    """What answering the validation split after every epoch, and the test split once, would take."""
    dataset, answering = job.dataset, Predictor(job.trained.network)
    counts = [(dataset.validation, job.train.epochs or 0), (dataset.test, 1)]
    total = sum(len(split) * times for split, times in counts if split is not None)
    count = min(256, len(dataset.train))
    with preserve_values(job.trained.network.variables):
        answering(dataset.train.take, count)
        since = time.perf_counter()
        answering(dataset.train.take, count)
    return (time.perf_counter() - since) / count * total


def _teacher_seconds(teacher_outputs: TeacherOutputs) -> float:
    """What answering all training examples would take; nothing where that is done, or no pass of its own."""
    if (
        teacher_outputs.placement.mode == "live"
        or teacher_outputs.recorded
        or teacher_outputs.complete
        or not teacher_outputs.arrays
    ):
        return 0.0
    sample = sample_examples(teacher_outputs.dataset.train)
    with teacher_outputs.open_pass(sample, create_identity_views(sample)) as teacher_pass:
        count = min(256, len(sample))
        teacher_pass(0, 0, count)
        since = time.perf_counter()
        teacher_pass(0, 0, count)
        each = (time.perf_counter() - since) / count
    return each * len(teacher_outputs.dataset.train) * (teacher_outputs.views.count or 1)
