"""What the student minimises: a weighted sum of named terms over one student pass and one teacher answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcli.data.feed import Batch
from kdcli.distillation.mixture import MemberOutputs
from kdcli.distillation.targets import Targets
from kdcli.distillation.terms import Term
from kdcli.errors import ModelError, summarize_error
from kdcli.formulas.masking import MaskedLoss
from kdcli.lazy import ops, tf
from kdcli.loss import Loss
from kdcli.models.network import Network, Outputs
from kdcli.models.prediction import LOGITS

REGULARIZATION = "regularization"


class Objective:
    """Runs the student once, asks for the teacher's answer once, and adds up the terms.

    Args:
        terms: from `build_terms`.
        student: whom the gradients are for.
        targets: the teacher's answers; None when no term wants them.
        class_weights: (classes,) weights on label losses, or None.
        label_smoothing: for label losses.
        replicas: how many devices share a batch.
        void: whether labels below 0 stand for pixels that no loss on outputs sees.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        student: Network,
        targets: Targets | None = None,
        class_weights: np.ndarray | None = None,
        label_smoothing: float = 0.0,
        replicas: int = 1,
        void: bool = False,
    ) -> None:
        self.terms = tuple(terms)
        self.network = student
        self.targets = targets
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.replicas = replicas
        self.void = void
        self._taps = tuple(dict.fromkeys(pair.student for term in self.terms for pair in term.pairs))
        self.names = tuple(term.loss.label for term in self.terms)
        if student.has_regularization:
            self.names = (*self.names, REGULARIZATION)

    @property
    def parts(self) -> list[Any]:
        """The weights of all terms' own parts: trained with the student, kept in checkpoints, never exported."""
        return [variable for term in self.terms for variable in term.variables]

    @property
    def trainable_variables(self) -> list[Any]:
        """What gradients are taken for."""
        parts = [variable for term in self.terms for variable in term.trainable_variables]
        return self.network.trainable_variables + parts

    def __call__(self, batch: Batch, progress: Any) -> tuple[Any, Any]:
        """The weighted total, and the terms without their weights as one vector.

        Both are this replica's contribution: summed over the replicas they are means over the global batch.
        """
        student = self.network.compute(batch.inputs, taps=self._taps, training=True)
        penalty = self.network.compute_regularization() if REGULARIZATION in self.names else None
        targets = self.targets.at(batch) if self.targets is not None else {}
        values, total = [], ops.zeros(())
        for term in self.terms:
            value = self._value(term, student, targets, batch, progress)
            values.append(value)
            total = total + term.loss.weight_at(progress) * value
        if penalty is not None:
            values.append(penalty / self.replicas)
            total = total + values[-1]
        return total, ops.stack(values)

    def _value(self, term: Term, student: Outputs, targets: dict[str, Any], batch: Batch, progress: Any) -> Any:
        given: dict[str, Any] = {"student": student.logits}
        if term.loss.needs_teacher:
            answer = targets[LOGITS]
            given["teacher"] = answer.to(term.loss, progress) if isinstance(answer, MemberOutputs) else answer
        if term.pairs:
            given["student"], given["teacher"] = self._features(term, student, targets)
        if isinstance(term.loss, MaskedLoss) and term.loss.mask_input is not None:
            given["mask"] = ops.not_equal(batch.inputs[term.loss.mask_input], 0)
        labels, weights = self._truth(term.loss, batch)
        index, valid = batch.positions, None
        if self.void and term.loss.on_logits:
            given, labels, index, valid = _pixels_as_rows(given, labels, index)
        try:
            losses = term.loss(
                **given,
                labels=labels,
                index=index,
                output_kind=self.network.output_kind,
                label_smoothing=self.label_smoothing,
                progress=progress,
                parts=term.parts,
            )
        # A kind says so when it is first traced, before any step.
        except ValueError as error:
            raise ModelError(
                f"losses.{term.loss.label}: {summarize_error(error):.300}", hint=f"kd losses show {term.loss.kind}"
            ) from error
        expected = 0 if term.loss.whole_batch else 1
        if losses is None or len(losses.shape) != expected:
            found = "nothing" if losses is None else f"shape {tuple(losses.shape)}"
            wanted = "one number for the whole batch" if term.loss.whole_batch else "one value for each example"
            raise ModelError(
                f"losses.{term.loss.label}: gives {found}, not {wanted}",
                hint=f"kd losses check {term.loss.kind}, or the file that defines it",
            )
        losses = ops.cast(losses, "float32")
        if valid is not None:
            losses = _over_valid(losses, valid)
        if term.loss.whole_batch:
            return losses / self.replicas
        if weights is not None:
            losses = losses * weights
        return ops.sum(losses) / batch.total

    def _features(self, term: Term, student: Outputs, targets: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        ours, theirs = term.sides
        students, teachers = [student.features[name] for name in ours], [targets[name] for name in theirs]
        for place, projection in enumerate(term.projections):
            if projection:
                students[place] = projection(ops.cast(students[place], "float32"))
                teachers[place] = projection.of_teacher(teachers[place])
        return students, teachers

    def _truth(self, loss: Loss, batch: Batch) -> tuple[Any, Any]:
        """Labels and weights for a loss; class weights act on losses that compare with labels alone."""
        if self.class_weights is None or loss.needs_teacher or not loss.needs_labels:
            return batch.labels, batch.weights
        labels = batch.labels
        if labels.shape.rank == 1:
            by_class = tf.gather(self.class_weights, labels)
        else:
            # Of a mixed label each class counts by its own weight: a cross-entropy is linear in the label.
            labels = labels * self.class_weights
            by_class = tf.reduce_sum(labels, axis=-1)
            labels = tf.math.divide_no_nan(labels, by_class[:, None])
        return labels, by_class if batch.weights is None else batch.weights * by_class


def _pixels_as_rows(given: dict[str, Any], labels: Any, index: Any) -> tuple[dict[str, Any], Any, Any, Any]:
    """Each pixel as an example of its own, and which of them count (batch, pixels)."""
    rows = {side: ops.reshape(logits, (-1, logits.shape[-1])) for side, logits in given.items()}
    pixels = ops.reshape(labels, (labels.shape[0] or -1, labels.shape[1] * labels.shape[2]))
    flat = ops.reshape(pixels, (-1,))
    return rows, ops.maximum(flat, 0), ops.repeat(index, pixels.shape[1]), pixels >= 0


def _over_valid(losses: Any, valid: Any) -> Any:
    """The mean over the pixels that count, for each example; 0 where none does."""
    losses = ops.where(valid, ops.reshape(losses, ops.shape(valid)), 0.0)
    return ops.sum(losses, axis=1) / ops.maximum(ops.sum(ops.cast(valid, losses.dtype), axis=1), 1.0)
