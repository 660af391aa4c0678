"""The objective: a weighted sum of named terms, with one student pass and one lookup of the targets per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcli.data.feed import Batch
from kdcli.distillation.ensemble_mixture import MemberOutputs
from kdcli.distillation.targets import Targets
from kdcli.distillation.terms import Term
from kdcli.errors import ModelError, summarize_error
from kdcli.formulas.masks import MaskedLoss
from kdcli.lazy import ops, tf
from kdcli.loss import Loss
from kdcli.models.network import Network, Outputs
from kdcli.models.prediction import LOGITS
from kdcli.tensors import Tensor, Variable

REGULARIZATION = "regularization"


class Objective:
    """Runs the student once, looks the targets up once, and adds up the terms.

    Args:
        terms: terms from `build_terms`.
        student: the network that is trained.
        targets: the teacher's outputs; None if no term needs them.
        class_weights: weights (classes,) of label losses, or None.
        label_smoothing: smoothing of label losses.
        replicas: number of devices that share a batch.
        void: whether labels below 0 mark pixels that losses on outputs ignore.
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
    def parts(self) -> list[Variable]:
        """The variables of all terms' parts: trained with the student, stored in checkpoints, never exported."""
        return [variable for term in self.terms for variable in term.variables]

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that get gradients."""
        parts = [variable for term in self.terms for variable in term.trainable_variables]
        return self.network.trainable_variables + parts

    def __call__(self, batch: Batch, progress: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted total, and the unweighted terms as one vector.

        Both are the contributions of this replica: their sums over the replicas are means over the global batch.
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

    def _value(
        self, term: Term, student: Outputs, targets: dict[str, Any], batch: Batch, progress: Tensor
    ) -> Tensor:
        arguments: dict[str, Any] = {"student": student.logits}
        if term.loss.needs_teacher:
            logits = targets[LOGITS]
            is_ensemble = isinstance(logits, MemberOutputs)
            arguments["teacher"] = logits.mix_for(term.loss, progress) if is_ensemble else logits
        if term.pairs:
            arguments["student"], arguments["teacher"] = self._select_features(term, student, targets)
        if isinstance(term.loss, MaskedLoss) and term.loss.mask_input is not None:
            arguments["mask"] = ops.not_equal(batch.inputs[term.loss.mask_input], 0)
        labels, weights = self._select_labels(term.loss, batch)
        index, valid = batch.positions, None
        if self.void and term.loss.on_logits:
            arguments, labels, index, valid = _pixels_as_rows(arguments, labels, index)
        try:
            losses = term.loss(
                **arguments,
                labels=labels,
                index=index,
                output_kind=self.network.output_kind,
                label_smoothing=self.label_smoothing,
                progress=progress,
                parts=term.parts,
            )
        # Losses check their arguments when they are first traced, before any step.
        except ValueError as error:
            raise ModelError(
                f"losses.{term.loss.label}: {summarize_error(error):.300}", hint=f"kd losses show {term.loss.kind}"
            ) from error
        expected = 0 if term.loss.whole_batch else 1
        if losses is None or len(losses.shape) != expected:
            found = "None" if losses is None else f"a tensor of shape {tuple(losses.shape)}"
            contract = "one number for the whole batch" if term.loss.whole_batch else "one value for each example"
            raise ModelError(
                f"losses.{term.loss.label}: returns {found}, not {contract}",
                hint=f"kd losses check {term.loss.kind}, or the file that defines it",
            )
        losses = ops.cast(losses, "float32")
        if valid is not None:
            losses = _average_valid(losses, valid)
        if term.loss.whole_batch:
            return losses / self.replicas
        if weights is not None:
            losses = losses * weights
        return ops.sum(losses) / batch.total

    def _select_features(
        self, term: Term, student: Outputs, targets: dict[str, Any]
    ) -> tuple[list[Tensor], list[Tensor]]:
        ours, theirs = term.taps
        students, teachers = [student.features[name] for name in ours], [targets[name] for name in theirs]
        for place, projection in enumerate(term.projections):
            if projection:
                students[place] = projection(ops.cast(students[place], "float32"))
                teachers[place] = projection.project_teacher(teachers[place])
        return students, teachers

    def _select_labels(self, loss: Loss, batch: Batch) -> tuple[Tensor, Tensor]:
        """Labels and weights for a loss; class weights apply only to losses that compare with labels alone."""
        if self.class_weights is None or loss.needs_teacher or not loss.needs_labels:
            return batch.labels, batch.weights
        labels = batch.labels
        if labels.shape.rank == 1:
            by_class = tf.gather(self.class_weights, labels)
        else:
            # In a mixed label each class has its own weight: a cross-entropy is linear in the label.
            labels = labels * self.class_weights
            by_class = tf.reduce_sum(labels, axis=-1)
            labels = tf.math.divide_no_nan(labels, by_class[:, None])
        return labels, by_class if batch.weights is None else batch.weights * by_class


def _pixels_as_rows(
    arguments: dict[str, Tensor], labels: Tensor, index: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Treat each pixel as an example; also return a mask (batch, pixels) of those that count."""
    rows = {side: ops.reshape(logits, (-1, logits.shape[-1])) for side, logits in arguments.items()}
    pixels = ops.reshape(labels, (labels.shape[0] or -1, labels.shape[1] * labels.shape[2]))
    flat = ops.reshape(pixels, (-1,))
    return rows, ops.maximum(flat, 0), ops.repeat(index, pixels.shape[1]), pixels >= 0


def _average_valid(losses: Tensor, valid: Tensor) -> Tensor:
    """The mean over the valid pixels of each example; 0 without any."""
    losses = ops.where(valid, ops.reshape(losses, ops.shape(valid)), 0.0)
    return ops.sum(losses, axis=1) / ops.maximum(ops.sum(ops.cast(valid, losses.dtype), axis=1), 1.0)
