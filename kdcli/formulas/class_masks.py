"""Masks over the classes, from labels that name one class per example."""

from __future__ import annotations

from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.tensors import Tensor

# Excludes a class from a softmax: its exponential is 0 in every float type.
MASKED_LOGIT = -1e30


def class_mask(labels: Tensor | None, logits: Tensor, loss: Loss) -> Tensor:
    """Return a mask (batch, ..., classes) that is True at the labelled class.

    Args:
        labels: class numbers (batch, ...).
        logits: logits (batch, ..., classes).
        loss: the loss that messages name.

    Raises:
        ValueError: labels are missing, one-hot or mixed.
    """
    if labels is None:
        raise ValueError(f"{loss.kind} needs labels=, the class of each example")
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) != len(logits.shape) - 1:
        raise ValueError(
            f"{loss.kind} needs one class for each example (got labels of shape {tuple(labels.shape)}; expected "
            f"{tuple(logits.shape[:-1])}); the kind labels takes one-hot and mixed labels"
        )
    return ops.cast(ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1]), "bool")


def log_softmax_others(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax over the classes outside the mask; 0 inside it."""
    rest = ops.where(mask, MASKED_LOGIT, logits)
    return ops.where(mask, 0.0, logits - ops.logsumexp(rest, axis=-1, keepdims=True))
