"""A formula written again in numpy: a loss is compared with it, its gradient with central differences."""

from __future__ import annotations

import numpy as np
import pytest

STEP = 1e-6


def logits(*shape, seed=0):
    """Normally distributed logits of both sides, and the labels: `student`, `teacher` and `labels`."""
    random = np.random.default_rng(seed)
    student, teacher = (2.0 * random.normal(size=shape) for _ in range(2))
    return {"student": student, "teacher": teacher, "labels": random.integers(0, shape[-1], shape[:-1])}


def softmax(values):
    """Shares over the last axis."""
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def compare(loss, formula, **given):
    """Compare the mean of a loss with `formula(**given)` in float64: the value, and every entry of the gradient.

    Args:
        loss: of any kind.
        formula: of the same arrays, giving a number.
        given: `student`, and what else both of them take.
    """
    import tensorflow as tf

    student = tf.constant(given["student"])
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = tf.reduce_mean(loss(**{**given, "student": student}))
    slope = tape.gradient(value, student).numpy()
    assert float(value) == pytest.approx(float(formula(**given)), rel=1e-9, abs=1e-12)
    expected = np.zeros_like(given["student"])
    for place in np.ndindex(expected.shape):
        ends = []
        for sign in (1, -1):
            moved = given["student"].copy()
            moved[place] += sign * STEP
            ends.append(float(formula(**{**given, "student": moved})))
        expected[place] = (ends[0] - ends[1]) / (2 * STEP)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=2e-6 * np.abs(expected).max() + 1e-9)
