"""What cannot work is refused before it costs anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.feed import Batch
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import LiveTargets, Targets
from kdcli.distillation.terms import Term
from kdcli.errors import ModelError
from kdcli.evaluation.chance import refuse_teacher_at_chance
from kdcli.jobs.job import Job
from kdcli.lazy import tf
from kdcli.loss import FeatureLoss
from kdcli.models.network import Network
from kdcli.models.variables import count_values, preserve_values
from kdcli.teacher.ensemble import AnyOutputs
from kdcli.teacher.split_logits import SAMPLE_SPLIT, sample_examples

SKIP = "--no-preflight skips this check"


def refuse_same(teacher: Network, student: Network) -> None:
    """Refuse a student that already is its teacher.

    Raises:
        ModelError: the same weights in both.
    """
    # The states of random generators are no weights.
    ours, theirs = ([v for v in side.variables if "float" in str(v.dtype)] for side in (student, teacher))
    if [tuple(v.shape) for v in ours] != [tuple(v.shape) for v in theirs] or not ours:
        return
    if all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(ours, theirs, strict=True)):
        raise ModelError(
            "teacher and student are the same model with the same weights: there is nothing to learn",
            hint=f"another --student, or --set student.start=fresh; {SKIP}",
        )


def refuse_idle_terms(
    terms: Sequence[Term],
    *,
    student: Network,
    teacher: Network | None,
    batch: Batch,
    targets: Targets | None = None,
) -> None:
    """Refuse a term whose gradient does not reach the student.

    Args:
        terms: each is tried alone.
        student, teacher: the two sides; no teacher where no term asks for one.
        batch: of examples.
        targets: the teacher's answers where they are there already; else it is asked.

    Raises:
        ModelError: naming the term.
    """
    if not student.trainable_variables:
        raise ModelError(f"the student ({student.name}) has nothing to train: every layer is frozen")
    # A training pass moves BatchNorm statistics and random states: the run starts from where it was.
    parts = [variable for term in terms for variable in term.variables]
    with preserve_values([*student.variables, *parts]):
        _refuse_idle(terms, student, teacher, batch, targets)


def _refuse_idle(
    terms: Sequence[Term], student: Network, teacher: Network | None, batch: Batch, kept: Targets | None
) -> None:
    for term in terms:
        targets = kept
        if kept is None and teacher is not None:
            targets = LiveTargets(teacher, [p.teacher for p in term.pairs])
        objective = Objective([term], student=student, targets=targets if term.loss.needs_teacher else None)
        norm = _gradient_norm(objective, student, batch)
        if norm is None or norm == 0.0:
            raise ModelError(
                f"losses.{term.loss.label} has no gradient in the student: it would train nothing",
                hint=f"kd losses show {term.loss.kind}; {SKIP}",
            )


def _gradient_norm(objective: Objective, student: Network, batch: Batch) -> float | None:
    def norm(inputs: Any, labels: Any, positions: Any) -> Any:
        given = Batch(inputs, labels, None, positions, batch.slot, batch.total)
        variables = [variable.value for variable in student.trainable_variables]
        with tf.GradientTape() as tape:
            _, values = objective(given, tf.constant(0.0))
            value = values[0]
        gradients = [gradient for gradient in tape.gradient(value, variables) if gradient is not None]
        return tf.linalg.global_norm(gradients) if gradients else tf.constant(-1.0)

    found = float(tf.function(norm, autograph=False)(batch.inputs, batch.labels, batch.positions))
    return None if found == -1.0 else found


def loss_findings(
    terms: Sequence[Term], *, student: Network, teacher: Network | None, replicas: int, weighted: bool
) -> tuple[str, ...]:
    """Sentences about losses that work with less than is expected of them.

    Args:
        terms: of the run.
        student, teacher: the two sides; no teacher where none is asked.
        replicas: how many devices share a batch.
        weighted: whether the examples have weights.
    """
    whole = ", ".join(term.loss.label for term in terms if term.loss.whole_batch)
    found = []
    if whole and replicas > 1:
        found.append(f"{whole}: depends on the whole batch and sees a share of it on each device")
    if whole and weighted:
        found.append(f"{whole}: depends on the whole batch, so the weights of examples do not act on it")
    normalized = [term.loss.label for term in terms if any("moving_mean" in v.path for v in term.parts.variables)]
    if normalized and replicas > 1:
        found.append(
            f"{', '.join(normalized)}: batch normalisation of its own sees a share of the batch on each device"
        )
    size = count_values(student.trainable_variables)
    for term in terms:
        loss = term.loss
        own = count_values(term.trainable_variables)
        if own > size:
            found.append(
                f"{loss.label}: the loss's own layers have {own} weights, the student {size}: "
                "they learn with it and are not in the exported student"
            )
        if not isinstance(loss, FeatureLoss) or teacher is None:
            continue
        ours, theirs = student.architecture, teacher.architecture
        if loss.family and ours and theirs and ours != theirs:
            found.append(
                f"{loss.label}: {loss.kind} is known to hurt across architectures (the teacher is built of "
                f"{theirs}, the student of {ours}): compare it with soft_targets alone"
            )
        if loss.before_activation:
            found.extend(_after_activation(term, student, teacher))
    return tuple(found)


def _after_activation(term: Term, student: Network, teacher: Network) -> list[str]:
    """A sentence where a feature is not known to be from before an activation, which the kind wants."""
    sides = {
        "student": [pair.student for pair in term.pairs if pair.student not in student.roles.linear],
        "teacher": [pair.teacher for pair in term.pairs if pair.teacher not in teacher.roles.linear],
    }
    return [
        f"{term.loss.label}: wants features from before the activation; of the {role} that is not known of "
        f"{', '.join(taps)}"
        for role, taps in sides.items()
        if taps
    ]


def check_job(job: Job) -> tuple[str, ...]:
    """Refuse what cannot work; gives what is worth knowing in sentences.

    Raises:
        ModelError: a teacher at chance level, teacher = student, a term without gradient.
    """
    findings = []
    teacher_outputs, student = job.teacher_outputs, job.trained
    train = job.dataset.train
    looked, answers = train, None
    if teacher_outputs is not None:
        findings.extend(_known_of(teacher_outputs, student.network, job.dataset.task))
        looked, answers = teacher_outputs.sample_targets()
    network = teacher_outputs.network if teacher_outputs is not None else None
    batch = _sample_batch(looked, min(job.train.batch_size, len(looked)))
    refuse_idle_terms(job.terms, student=student.network, teacher=network, batch=batch, targets=answers)
    if teacher_outputs is not None and job.views.augments and job.views.count == 1 and (job.train.epochs or 1) > 1:
        findings.append("a single view for all epochs was worse than no augmentation: teacher.views=8 keeps 8")
    return tuple(findings)


def _known_of(teacher_outputs: AnyOutputs, student: Network, task: str) -> list[str]:
    """How good each teacher is on training examples.

    Raises:
        ModelError: one is at chance level, or is the student.
    """
    texts = []
    sample = sample_examples(teacher_outputs.dataset.train)
    labels = sample.all_labels()
    for one in teacher_outputs.members:
        refuse_same(one.network, student)
        if task == "classification" and labels is not None:
            logits = one.split_logits(SAMPLE_SPLIT, sample)
            accuracy = refuse_teacher_at_chance(logits, labels, name=one.network.name)
            who = "the teacher" if len(teacher_outputs.members) == 1 else one.network.name
            texts.append(f"{who}'s accuracy on training examples is {accuracy:.4f}")
    return texts


def _sample_batch(examples: Examples, size: int) -> Batch:
    positions = np.arange(size)
    raw = {name: tf.convert_to_tensor(value) for name, value in examples.take(positions).items()}
    labels = examples.training_labels()
    return Batch(
        inputs=raw,
        labels=None if labels is None else tf.convert_to_tensor(labels[positions]),
        weights=None,
        positions=tf.convert_to_tensor(positions),
        slot=tf.constant(0, tf.int64),
        total=len(positions),
    )
