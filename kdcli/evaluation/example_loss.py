"""The task's own loss of single examples, in float64: for paired comparisons, and beside guessing."""

from __future__ import annotations

import numpy as np

LARGEST_LOSS = 1e6


def compute_example_losses(
    logits: np.ndarray, labels: np.ndarray, *, task: str, output_kind: str
) -> np.ndarray | None:
    """The task's own loss of each example: cross-entropy, binary cross-entropy or squared error.

    Args:
        logits: (n, ..., outputs), as `head` says.
        labels: (n, ...) classes, rows of probabilities, 0 and 1, or values.
        task: of the data.
        output_kind: `logits`, `sigmoid` or `values`.

    Returns:
        (n,) float64, at most 1e6 each; None where the labels do not fit.
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
    """Rows for whole numbers; what is out of range, such as void pixels, gets a row of zeros and costs nothing."""
    return (labels[..., None] == np.arange(outputs)).astype(np.float64)


def compute_guessing_losses(
    labels: np.ndarray, shape: tuple[int, ...], *, task: str, output_kind: str
) -> np.ndarray:
    """The task's own loss of each example under the one prediction that fits all labels best.

    Args:
        labels: as in `example_losses`.
        shape: of the logits, (n, ..., outputs).
        task: of the data.
        output_kind: of the network.

    Returns:
        (n,) float64.
    """
    outputs = shape[-1]
    if labels.ndim < len(shape) and task in ("classification", "segmentation") and output_kind != "sigmoid":
        # Without a row for each pixel: maps are large.
        there = (labels >= 0) & (labels < outputs)
        numbers = np.where(there, labels, 0).astype(np.int64)
        frequencies = np.bincount(numbers[there], minlength=outputs) / max(labels.size, 1) + 1e-9
        loss = -np.where(there, np.log(frequencies / frequencies.sum())[numbers], 0.0)
        return np.asarray(loss.reshape(len(loss), -1).mean(-1))
    if task == "regression":
        values = labels.reshape(len(labels), *shape[1:]).astype(np.float64)
        constant = values.mean(0, keepdims=True)
    else:
        values = (labels if labels.ndim == len(shape) else _one_hot(labels, outputs)).astype(np.float64)
        frequencies = values.reshape(-1, outputs).mean(0) + 1e-9
        odds = np.clip(1 - frequencies, 1e-9, None) if task == "multilabel" or output_kind == "sigmoid" else 1.0
        constant = np.log(frequencies) - np.log(odds)
    guessed = np.broadcast_to(constant, values.shape)
    found = compute_example_losses(guessed, labels, task=task, output_kind=output_kind)
    assert found is not None
    return found
