"""From logits to what people read: probabilities and decisions, by the kind of output."""

from __future__ import annotations

import numpy as np


def probabilities(logits: np.ndarray, *, head: str) -> np.ndarray | None:
    """What logits say as probabilities, float32; None for values.

    Args:
        logits: (n, ..., outputs).
        head: `logits` (classes that exclude each other), `sigmoid` (independent ones) or `values`.
    """
    exact = logits.astype(np.float64)
    if head == "values":
        return None
    if head == "sigmoid":
        # exp of a positive number could overflow: tanh is the same curve.
        return (0.5 + 0.5 * np.tanh(exact / 2)).astype(np.float32)
    raised = np.exp(exact - exact.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32)


def decided(logits: np.ndarray, *, task: str) -> np.ndarray | None:
    """(n, ...) the class, or for `multilabel` (n, outputs) 0 or 1; None for regression."""
    if task == "regression":
        return None
    return (logits > 0).astype(np.int64) if task == "multilabel" else logits.argmax(-1)
