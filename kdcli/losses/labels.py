"""Labels: the loss against the ground truth, without a teacher."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import per_example, wide
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.tensors import Tensor


class Labels(Loss):
    """Cross-entropy with the labels (or mse, mae, huber), the loss of training without a teacher.

    `auto` is the cross-entropy for logits, the binary cross-entropy for sigmoid outputs and mse for values. `mse`
    on a classifier compares probabilities with the one-hot label.

    Shapes: student (batch, ..., classes) logits or values; labels (batch, ...) classes, or of the student's shape
    (one-hot, smoothed, multi-label, values) → (batch,).

    Args:
        loss: `auto`, `cross_entropy`, `mse`, `mae` or `huber` (delta 1).

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("labels")
        >>> round(float(loss(student=[[0.0, 0.0]], labels=[1])[0]), 4)
        0.6931
    """

    known_as: ClassVar[str] = "hard-label loss"
    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    output_kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid", "values")
    zero_when_equal: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student (batch, ..., classes), labels (batch, ...) → (batch,)"

    kind: Literal["labels"] = "labels"
    loss: Literal["auto", "cross_entropy", "mse", "mae", "huber"] = "auto"

    def __call__(
        self,
        *,
        student: Tensor,
        labels: Tensor,
        output_kind: str = "logits",
        label_smoothing: float = 0.0,
        **_: Any,
    ) -> Tensor:
        """Return the loss per example; smoothing mixes one-hot labels with the uniform distribution."""
        logits = wide(student)
        target = ops.stop_gradient(_as_target(labels, logits, output_kind))
        if output_kind != "values" and label_smoothing:
            classes = logits.shape[-1] if output_kind == "logits" else 2
            target = target * (1.0 - label_smoothing) + label_smoothing / classes
        if self.loss in ("auto", "cross_entropy") and output_kind == "logits":
            return per_example(-ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1))
        if self.loss in ("auto", "cross_entropy") and output_kind == "sigmoid":
            return per_example(ops.relu(logits) - logits * target + ops.softplus(-ops.abs(logits)))
        if self.loss == "cross_entropy":
            raise ValueError("cross_entropy needs a classifier, not an output of values: use mse, mae or huber")
        return per_example(_distance(self.loss, _predict(logits, output_kind) - target))


def _as_target(labels: Tensor, logits: Tensor, output_kind: str) -> Tensor:
    labels = ops.convert_to_tensor(labels)
    sparse = len(labels.shape) == len(logits.shape) - 1
    if (output_kind == "logits" and sparse) or (output_kind == "sigmoid" and sparse and logits.shape[-1] > 1):
        return ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if sparse and logits.shape[-1] == 1:
        labels = ops.expand_dims(labels, -1)
    return ops.cast(labels, logits.dtype)


def _predict(logits: Tensor, output_kind: str) -> Tensor:
    if output_kind == "logits":
        return ops.softmax(logits, axis=-1)
    return ops.sigmoid(logits) if output_kind == "sigmoid" else logits


def _distance(loss: str, difference: Tensor) -> Tensor:
    size = ops.abs(difference)
    if loss == "mae":
        return size
    if loss == "huber":
        return ops.where(size <= 1.0, 0.5 * size * size, size - 0.5)
    return size * size
