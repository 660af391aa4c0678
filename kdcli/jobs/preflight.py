"""Preflight: refuse a job that cannot work before it costs anything; report what may surprise."""

from __future__ import annotations

from collections.abc import Sequence

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
from kdcli.tensors import Tensor

_SKIP = "--no-preflight skips this check"


def refuse_same(teacher: Network, student: Network) -> None:
    """Refuse a student that equals its teacher.

    Raises:
        ModelError: both have the same weights.
    """
    # The states of random generators are not weights.
    ours, theirs = ([v for v in side.variables if "float" in str(v.dtype)] for side in (student, teacher))
    if [tuple(v.shape) for v in ours] != [tuple(v.shape) for v in theirs] or not ours:
        return
    if all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(ours, theirs, strict=True)):
        raise ModelError(
            "teacher and student are the same model with the same weights: there is nothing to learn",
            hint=f"another --student, or --set student.start=fresh; {_SKIP}",
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
        terms: each is checked separately.
        student: gets the gradients.
        teacher: None if no term needs one.
        batch: of training examples.
        targets: the teacher's outputs for the batch; computed if None.

    Raises:
        ModelError: naming the term.
    """
    if not student.trainable_variables:
        raise ModelError(f"the student ({student.name}) has nothing to train: every layer is frozen")
    # A training pass changes BatchNorm statistics and random states; the run must start from the originals.
    parts = [variable for term in terms for variable in term.variables]
    with preserve_values([*student.variables, *parts]):
        _refuse_idle(terms, student, teacher, batch, targets)


def _refuse_idle(
    terms: Sequence[Term], student: Network, teacher: Network | None, batch: Batch, known: Targets | None
) -> None:
    for term in terms:
        targets = known
        if known is None and teacher is not None:
            targets = LiveTargets(teacher, [p.teacher for p in term.pairs])
        objective = Objective([term], student=student, targets=targets if term.loss.needs_teacher else None)
        norm = _gradient_norm(objective, student, batch)
        if norm is None or norm == 0.0:
            raise ModelError(
                f"losses.{term.loss.label} has no gradient in the student: it would train nothing",
                hint=f"kd losses show {term.loss.kind}; {_SKIP}",
            )


def _gradient_norm(objective: Objective, student: Network, batch: Batch) -> float | None:
    def compute_norm(inputs: dict[str, Tensor], labels: Tensor, positions: Tensor) -> Tensor:
        traced = Batch(inputs, labels, None, positions, batch.slot, batch.total)
        variables = [variable.value for variable in student.trainable_variables]
        with tf.GradientTape() as tape:
            _, values = objective(traced, tf.constant(0.0))
            value = values[0]
        gradients = [gradient for gradient in tape.gradient(value, variables) if gradient is not None]
        return tf.linalg.global_norm(gradients) if gradients else tf.constant(-1.0)

    found = float(tf.function(compute_norm, autograph=False)(batch.inputs, batch.labels, batch.positions))
    return None if found == -1.0 else found


def collect_loss_findings(
    terms: Sequence[Term], *, student: Network, teacher: Network | None, replicas: int, weighted: bool
) -> tuple[str, ...]:
    """Collect findings about losses that may work less well than expected.

    Args:
        terms: of the run.
        student: with the number of weights, and the architecture.
        teacher: None for training on labels.
        replicas: number of devices that a batch is divided among.
        weighted: whether the examples have weights.
    """
    whole = ", ".join(term.loss.label for term in terms if term.loss.whole_batch)
    found = []
    if whole and replicas > 1:
        found.append(f"{whole}: compares the examples of a batch, but each device sees only a slice of it")
    if whole and weighted:
        found.append(f"{whole}: compares the examples of a batch, so example weights do not apply to it")
    normalized = [term.loss.label for term in terms if any("moving_mean" in v.path for v in term.parts.variables)]
    if normalized and replicas > 1:
        found.append(
            f"{', '.join(normalized)}: its batch normalization sees only a slice of the batch on each device"
        )
    size = count_values(student.trainable_variables)
    for term in terms:
        loss = term.loss
        count = count_values(term.trainable_variables)
        if count > size:
            found.append(
                f"{loss.label}: the layers of the loss have {count:,} weights, the student {size:,}; they are "
                "trained with the student, but not exported"
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
            found.extend(_find_after_activation(term, student, teacher))
    return tuple(found)


def _find_after_activation(term: Term, student: Network, teacher: Network) -> list[str]:
    """Findings about features that may come after an activation, for a loss that needs those before."""
    sides = {
        "student": [pair.student for pair in term.pairs if pair.student not in student.roles.linear],
        "teacher": [pair.teacher for pair in term.pairs if pair.teacher not in teacher.roles.linear],
    }
    return [
        f"{term.loss.label}: needs features from before an activation; those of the {role} may come after one: "
        f"{', '.join(taps)}"
        for role, taps in sides.items()
        if taps
    ]


def check_job(job: Job) -> tuple[str, ...]:
    """Refuse a job that cannot work; return findings.

    Raises:
        ModelError: a teacher at chance level, a student that equals its teacher, or a term without gradient.
    """
    findings = []
    teacher_outputs, student = job.teacher_outputs, job.trained
    sample, targets = job.dataset.train, None
    if teacher_outputs is not None:
        findings.extend(_check_teachers(teacher_outputs, student.network, job.dataset.task))
        sample, targets = teacher_outputs.sample_targets()
    network = teacher_outputs.network if teacher_outputs is not None else None
    batch = _make_batch(sample, min(job.train.batch_size, len(sample)))
    refuse_idle_terms(job.terms, student=student.network, teacher=network, batch=batch, targets=targets)
    if teacher_outputs is not None and job.views.augments and job.views.count == 1 and (job.train.epochs or 1) > 1:
        findings.append(
            "teacher.views is 1: the same view in all epochs measured worse than no augmentation; "
            "--set teacher.views=8 stores 8 views"
        )
    return tuple(findings)


def _check_teachers(teacher_outputs: AnyOutputs, student: Network, task: str) -> list[str]:
    """Return the accuracy of each teacher on training examples as findings.

    Raises:
        ModelError: a teacher is at chance level, or equals the student.
    """
    texts = []
    sample = sample_examples(teacher_outputs.dataset.train)
    labels = sample.all_labels()
    for one in teacher_outputs.members:
        refuse_same(one.network, student)
        if task == "classification" and labels is not None:
            accuracy = refuse_teacher_at_chance(
                one.split_logits(SAMPLE_SPLIT, sample), labels, name=one.network.name
            )
            name = "the teacher" if len(teacher_outputs.members) == 1 else one.network.name
            texts.append(f"{name}'s accuracy on training examples is {accuracy:.4f}")
    return texts


def _make_batch(examples: Examples, size: int) -> Batch:
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
