"""What is worth knowing of a run's losses before it starts, in sentences for the plan."""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.distillation.terms import Term
from kdcli.loss import FeatureLoss
from kdcli.models.network import Network
from kdcli.workflows.planning import size_of


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
    size = size_of(student.trainable_variables)
    for term in terms:
        loss = term.loss
        own = size_of(term.trainable_variables)
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
