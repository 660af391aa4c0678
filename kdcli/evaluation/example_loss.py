"""The task loss of single examples in float64, for a model and for the best constant prediction."""

from __future__ import annotations

import numpy as np

LARGEST_LOSS = 1e6


def compute_example_losses(
    logits: np.ndarray, labels: np.ndarray, *, task: str, output_kind: str
) -> np.ndarray | None:
    """The task loss of each example: cross-entropy, binary cross-entropy or squared error.

    Args:
        logits: (n, ..., outputs) logits or values.
        labels: (n, ...) classes, or (n, ..., outputs) probabilities, zeros and ones, or values.
        task: task of the data.
        output_kind: `logits`, `sigmoid` or `values`.

    Returns:
        (n,) float64, each at most 1e6; None if the labels do not fit the outputs.
    """
    outputs = logits.shape[-1]
    if task == "regression":
        if labels.size != logits.size:
            return None
        loss = np.square(logits - labels.reshape(logits.shape).astype(np.float64))
    elif task == "multilabel" or output_kind == "sigmoid":
        truth = labels if labels.shape == logits.shape else _one_hot(labels, outputs)
        if truth.shape != logits.shape:
            return None
        loss = np.maximum(logits, 0) - logits * truth + np.log1p(np.exp(-np.abs(logits)))
    else:
        truth = labels if labels.shape == logits.shape else _one_hot(labels, outputs)
        if truth.shape != logits.shape:
            return None
        shifted = logits - logits.max(-1, keepdims=True)
        loss = np.log(np.exp(shifted).sum(-1, keepdims=True)) * truth - shifted * truth
        loss = loss.sum(-1)
    with np.errstate(invalid="ignore"):
        loss = np.nan_to_num(loss, nan=LARGEST_LOSS, posinf=LARGEST_LOSS)
        return np.minimum(loss.reshape(len(loss), -1).mean(-1), LARGEST_LOSS)


def _one_hot(labels: np.ndarray, outputs: int) -> np.ndarray:
    """One-hot rows of classes; a class out of range, such as a void pixel, gets zeros and has no loss."""
    return (labels[..., None] == np.arange(outputs)).astype(np.float64)


def compute_guessing_losses(
    labels: np.ndarray, shape: tuple[int, ...], *, task: str, output_kind: str
) -> np.ndarray:
    """The task loss of each example for the constant prediction that fits all labels best.

    Args:
        labels: as in `compute_example_losses`.
        shape: shape of the logits, (n, ..., outputs).
        task: task of the data.
        output_kind: output kind of the network.

    Returns:
        (n,) float64.
    """
    outputs = shape[-1]
    if labels.ndim < len(shape) and task in ("classification", "segmentation") and output_kind != "sigmoid":
        # No one-hot row for each pixel: maps are large.
        valid = (labels >= 0) & (labels < outputs)
        numbers = np.where(valid, labels, 0).astype(np.int64)
        frequencies = np.bincount(numbers[valid], minlength=outputs) / max(labels.size, 1) + 1e-9
        loss = -np.where(valid, np.log(frequencies / frequencies.sum())[numbers], 0.0)
        return np.asarray(loss.reshape(len(loss), -1).mean(-1))
    if task == "regression":
        values = labels.reshape(len(labels), *shape[1:]).astype(np.float64)
        constant = values.mean(0, keepdims=True)
    else:
        values = (labels if labels.ndim == len(shape) else _one_hot(labels, outputs)).astype(np.float64)
        frequencies = values.reshape(-1, outputs).mean(0) + 1e-9
        odds = np.clip(1 - frequencies, 1e-9, None) if task == "multilabel" or output_kind == "sigmoid" else 1.0
        constant = np.log(frequencies) - np.log(odds)
    losses = compute_example_losses(
        np.broadcast_to(constant, values.shape), labels, task=task, output_kind=output_kind
    )
    assert losses is not None
    return losses
