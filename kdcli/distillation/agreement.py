"""How far two sets of answers to the same examples are from each other."""

from __future__ import annotations

import numpy as np

# Soft targets are compared at the temperature that is used for them where nothing else is said.
TEMPERATURE = 4.0


def agreement(exact: np.ndarray, other: np.ndarray, *, head: str) -> float | None:
    """The share of decisions that are the same: the best class, or each yes and no; None for values.

    Args:
        exact, other: logits (n, ..., outputs).
        head: `logits`, `sigmoid` or `values`.
    """
    if head == "values":
        return None
    if head == "sigmoid":
        return float(np.mean((exact > 0) == (other > 0)))
    return float(np.mean(exact.argmax(-1) == other.argmax(-1)))


def largest_change(exact: np.ndarray, other: np.ndarray, *, head: str) -> float:
    """The largest change of a probability; of a value, in standard deviations of that output.

    Args:
        exact, other: logits (n, ..., outputs).
        head: `logits`, `sigmoid` or `values`.
    """
    if head == "values":
        spread = exact.reshape(-1, exact.shape[-1]).std(axis=0)
        return float(np.max(np.abs(exact - other) / np.maximum(spread, 1e-12)))
    return float(np.max(np.abs(_probabilities(exact, head) - _probabilities(other, head))))


def soft_target_error(exact: np.ndarray, other: np.ndarray, *, head: str) -> float:
    """What answers in a narrower type do to the loss of soft targets, as a share of it.

    The divergence from the exact soft targets to the narrower ones at temperature 4, relative to the entropy of
    the exact ones; for values the size of the difference relative to that of the values.

    Args:
        exact, other: logits (n, ..., outputs).
        head: `logits`, `sigmoid` or `values`.
    """
    if head == "values":
        return relative_error(exact, other)
    p, q = (_probabilities(np.asarray(z, np.float64) / TEMPERATURE, head) for z in (exact, other))
    parts = [(p, q), (1 - p, 1 - q)] if head == "sigmoid" else [(p, q)]
    tiny = np.finfo(np.float64).tiny
    divergence = sum(float(np.sum(a * np.log(np.maximum(a, tiny) / np.maximum(b, tiny)))) for a, b in parts)
    entropy = -sum(float(np.sum(a * np.log(np.maximum(a, tiny)))) for a, _ in parts)
    return max(divergence, 0.0) / max(entropy, tiny)


def relative_error(exact: np.ndarray, other: np.ndarray) -> float:
    """The norm of the difference relative to the norm of what is exact."""
    difference = np.linalg.norm((np.asarray(other, np.float32) - exact).ravel().astype(np.float64))
    return float(difference / max(np.linalg.norm(exact.ravel().astype(np.float64)), np.finfo(np.float64).tiny))


def _probabilities(logits: np.ndarray, head: str) -> np.ndarray:
    exact = np.asarray(logits, np.float64)
    if head == "sigmoid":
        # exp of a positive number could overflow: tanh is the same curve.
        return 0.5 + 0.5 * np.tanh(exact / 2)
    raised = np.exp(exact - exact.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)
