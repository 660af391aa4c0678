"""Labels that name one class for each example, as a mask over the classes."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import ops
from kdcli.loss import Loss

# What takes a class out of a softmax: its exponential is 0 in every float type.
MASKED_LOGIT = -1e30


def class_mask(labels: Any, logits: Any, loss: Loss) -> Any:
    """True at the class that the label names, False elsewhere: (batch, ..., classes).

    Args:
        labels: (batch, ...) classes.
        logits: (batch, ..., classes).
        loss: whom messages name.

    Raises:
        ValueError: labels that are missing, one-hot or mixed.
    """
    if labels is None:
        raise ValueError(f"{loss.kind} needs labels=, the class of each example")
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) != len(logits.shape) - 1:
        raise ValueError(
            f"{loss.kind} needs one class for each example: labels of shape {tuple(logits.shape[:-1])}, "
            f"got {tuple(labels.shape)}; one-hot and mixed labels are for the kind labels"
        )
    return ops.cast(ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1]), "bool")


def log_softmax_others(logits: Any, mask: Any) -> Any:
    """Log-softmax over the classes outside the mask; 0 inside it."""
    rest = ops.where(mask, MASKED_LOGIT, logits)
    return ops.where(mask, 0.0, logits - ops.logsumexp(rest, axis=-1, keepdims=True))
