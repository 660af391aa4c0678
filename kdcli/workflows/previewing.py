"""Before training: what is refused, what is foreseen, and for a dry run what one step costs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.feed import Batch
from kdcli.data.views import Views
from kdcli.distillation.objective import teacher_taps
from kdcli.distillation.preflight import refuse_chance, refuse_idle_terms, refuse_same
from kdcli.distillation.targets import LiveTargets, Targets, answer_once, bytes_needed, recorded_targets
from kdcli.evaluation.footprint import weight_bytes
from kdcli.lazy import tf
from kdcli.models.answering import Answering
from kdcli.models.precision import computing_in
from kdcli.models.recorded import RecordedNetwork
from kdcli.models.values import unchanged
from kdcli.runs.results import Plan
from kdcli.workflows.fitting import Fit
from kdcli.workflows.job import Job
from kdcli.workflows.planning import pair_rows, settings_table

# Steps that a dry run times, after one that compiles.
TIMED_STEPS = 4


def check_before(job: Job) -> tuple[str, ...]:
    """Refuse what cannot work; gives what is worth knowing in sentences.

    Raises:
        ModelError: a teacher at chance level, teacher = student, a term without gradient.
    """
    findings = []
    fit, teacher, student = job.fit, job.teacher, job.trained
    train = fit.dataset.train
    if teacher is not None:
        refuse_same(teacher.network, student.network)
        accuracy = refuse_chance(teacher.network, train) if fit.dataset.task == "classification" else None
        if accuracy is not None:
            findings.append(f"the teacher's accuracy on training examples is {accuracy:.4f}")
    positions = np.arange(min(fit.train.batch_size, len(train)))
    batch = _sample_batch(fit, positions)
    network = teacher.network if teacher is not None else None
    kept = recorded_targets(network, train) if isinstance(network, RecordedNetwork) else None
    refuse_idle_terms(fit.terms, student=student.network, teacher=network, batch=batch, targets=kept)
    findings.extend(_unscaled(train))
    whole = [term.loss.label for term in fit.terms if term.loss.whole_batch]
    if whole and fit.strategy.num_replicas_in_sync > 1:
        findings.append(f"{', '.join(whole)} depends on the whole batch and sees a share of it on each device")
    return tuple(findings)


def _unscaled(train: Examples) -> list[str]:
    """Pictures that are stored as numbers up to 255 in another type than the one that is scaled."""
    texts = []
    for name, array in train.inputs.items():
        if array.ndim >= 3 and array.dtype != np.uint8 and array[:256].max() > 2:
            texts.append(
                f"{name} is {array.dtype} up to {array[:256].max():g} and passes as it is: only uint8 "
                "pictures are scaled (store uint8, or divide by 255)"
            )
    return texts


def _sample_batch(fit: Fit, positions: np.ndarray) -> Any:
    train = fit.dataset.train
    raw = {name: tf.convert_to_tensor(value) for name, value in train.take(positions).items()}
    labels = train.labels_at(positions)
    return Batch(
        inputs=raw,
        labels=None if labels is None else tf.convert_to_tensor(labels),
        weights=None,
        positions=tf.convert_to_tensor(positions),
        slot=tf.constant(0, tf.int64),
        total=len(positions),
    )


def make_plan(job: Job, findings: tuple[str, ...], *, measured: bool) -> Plan:
    """The plan of a distillation (or of a teacher's training, whose `teacher` is None)."""
    fit, dataset = job.fit, job.fit.dataset
    kept = 0
    teacher_parameters = 0
    targets: dict[str, Any] = {}
    if job.teacher is not None:
        teacher_parameters = job.teacher.network.parameters or 0
        count = fit.views.count
        if job.mode == "memory":
            kept = bytes_needed(job.teacher.network, teacher_taps(fit.terms), len(dataset.train), count or 1)
        targets = {"mode": job.mode, "why": job.mode_reason, "views": count if count is not None else "all"}
        targets |= {"bytes": kept, "fingerprint": None}
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    # Weights, their gradients and two moments of the optimizer, in float32.
    memory = dataset.train.bytes + kept + 4 * (4 * job.trained.network.parameters + teacher_parameters)
    return Plan(
        settings=settings_table(job.recipe, job.asked.origins, job.resolved),
        teacher=job.trained.to_json() if job.role == "teacher" else job.teacher.to_json() if job.teacher else None,
        student=job.trained.to_json() if job.role == "student" else None,
        pairs=pair_rows(fit.terms),
        targets=targets,
        data={
            "name": dataset.name,
            "task": dataset.task,
            "outputs": dataset.outputs,
            **{name: len(split) if split is not None else 0 for name, split in splits.items()},
        },
        steps=fit.train.steps or 0,
        epochs=fit.train.epochs or 0,
        memory_bytes=memory,
        student_bytes=weight_bytes(job.trained.network.parameters),
        seconds=_measured_seconds(job) if measured else {"teacher": None, "training": None},
        findings=(*findings, *_notes(job)),
    )


def _notes(job: Job) -> list[str]:
    """What the opened models have to say of themselves."""
    sides = {"teacher": job.trained if job.role == "teacher" else job.teacher}
    sides |= {"student": job.trained} if job.role == "student" else {}
    return [f"{role}: {text}" for role, side in sides.items() if side is not None for text in side.network.notes]


def _measured_seconds(job: Job) -> dict[str, float | None]:
    """What the whole would take, from one step (compiled first) and one batch of the teacher; weights go back."""
    fit, train = job.fit, job.fit.dataset.train
    sample = train.subset(np.arange(min(256, len(train))))
    targets, teacher_seconds = _sample_targets(job, sample)
    with unchanged(fit.network.variables), computing_in(fit.network, fit.train.precision):
        stepper = fit.stepper(targets)
        batch = min(fit.train.batch_size, len(train))
        positions = np.resize(np.arange(len(sample)), (1 + TIMED_STEPS, batch))
        stepper.start(positions, table=fit.views.table(0), slot=0)
        stepper.run(1, first=0)
        since = time.perf_counter()
        stepper.run(TIMED_STEPS, first=1)
        each = (time.perf_counter() - since) / TIMED_STEPS
    return {"teacher": teacher_seconds, "training": round(each * (fit.train.steps or 0), 1)}


def _sample_targets(job: Job, sample: Any) -> tuple[Targets | None, float | None]:
    if job.teacher is None:
        return None, None
    taps, views, network = teacher_taps(job.fit.terms), job.fit.views, job.teacher.network
    if isinstance(network, RecordedNetwork):
        return recorded_targets(network, sample), 0.0
    ask = Answering(network, taps=taps)
    ask(sample.take, len(sample))
    since = time.perf_counter()
    ask(sample.take, len(sample))
    each = (time.perf_counter() - since) / len(sample)
    if job.mode == "live":
        return LiveTargets(network, taps), 0.0
    seconds = round(each * len(job.fit.dataset.train) * (views.count or 1), 1)
    of_sample = Views(views.augments, seed=views.seed, count=views.count, examples=len(sample))
    return answer_once(network, taps, sample, of_sample), seconds
