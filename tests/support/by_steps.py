"""An independent numpy formula beside a loss: the value, and the gradient by central differences."""

from __future__ import annotations

import numpy as np
import pytest

STEP = 1e-6


def draw(*shapes, seed=0, size=1.0):
    """A normally distributed float64 array for each shape."""
    random = np.random.default_rng(seed)
    return [size * random.normal(size=shape) for shape in shapes]


def gradients(loss, student, teacher, **given):
    """The mean of the loss and its gradient for each of the student's arrays."""
    import tensorflow as tf

    ours, theirs = [tf.constant(array) for array in student], [tf.constant(array) for array in teacher]
    with tf.GradientTape() as tape:
        tape.watch(ours)
        value = tf.reduce_mean(loss(student=ours, teacher=theirs, **given))
    slopes = tape.gradient(value, ours, unconnected_gradients="zero")
    return float(value), [np.asarray(slope) for slope in slopes]


def check(loss, formula, student, teacher, *, entries=12, **given):
    """Compare a loss with `formula(student, teacher)` in float64: value, and some entries of each gradient."""
    value, slopes = gradients(loss, student, teacher, **given)
    assert value == pytest.approx(formula(student, teacher), rel=1e-10, abs=1e-14)
    largest = max(np.abs(slope).max() for slope in slopes)
    random = np.random.default_rng(1)
    for number, slope in enumerate(slopes):
        for place in random.choice(slope.size, min(entries, slope.size), replace=False):
            ends = []
            for sign in (1, -1):
                moved = [array.copy() for array in student]
                moved[number].flat[place] += sign * STEP
                ends.append(formula(moved, teacher))
            expected = (ends[0] - ends[1]) / (2 * STEP)
            assert slope.flat[place] == pytest.approx(expected, abs=2e-6 * largest + 1e-9), (number, place)


def pooled(feature, height, width):
    """Adaptive average pooling, window by window."""
    rows, columns = feature.shape[1:3]
    out = np.empty((len(feature), height, width, feature.shape[-1]))
    for i in range(height):
        for j in range(width):
            down = slice(i * rows // height, -(-(i + 1) * rows // height))
            across = slice(j * columns // width, -(-(j + 1) * columns // width))
            out[:, i, j] = feature[:, down, across].mean(axis=(1, 2))
    return out


def same_size(first, second):
    """Both maps pooled to the smaller height and width."""
    size = np.minimum(first.shape[1:3], second.shape[1:3])
    return pooled(first, *size), pooled(second, *size)
