"""Losses against formulas in numpy: the value, and the gradient by central differences, in float64."""

from __future__ import annotations

import numpy as np
import pytest

STEP = 1e-6


def logits(*shape, seed=0):
    """Normally distributed logits of both sides, and the labels: `student`, `teacher` and `labels`."""
    random = np.random.default_rng(seed)
    student, teacher = (2.0 * random.normal(size=shape) for _ in range(2))
    return {"student": student, "teacher": teacher, "labels": random.integers(0, shape[-1], shape[:-1])}


def draw(*shapes, seed=0, size=1.0):
    """A normally distributed array for each shape."""
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


def central_difference(formula, array, place):
    """The derivative of `formula(array)` by the entry at a flat index."""
    ends = []
    for sign in (1, -1):
        moved = array.copy()
        moved.flat[place] += sign * STEP
        ends.append(float(formula(moved)))
    return (ends[0] - ends[1]) / (2 * STEP)


def compare(loss, formula, **given):
    """Compare a loss on outputs with `formula(**given)`: the value, and every entry of the gradient.

    Args:
        loss: a loss on outputs.
        formula: returns the mean of the loss for the same arrays.
        given: `student`, and the other arguments of both.
    """
    import tensorflow as tf

    student = tf.constant(given["student"])
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = tf.reduce_mean(loss(**{**given, "student": student}))
    slope = tape.gradient(value, student).numpy()
    assert float(value) == pytest.approx(float(formula(**given)), rel=1e-9, abs=1e-12)

    def of_student(array):
        return formula(**{**given, "student": array})

    expected = [central_difference(of_student, given["student"], place) for place in range(slope.size)]
    expected = np.reshape(expected, slope.shape)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=2e-6 * np.abs(expected).max() + 1e-9)


def check(loss, formula, student, teacher, *, entries=12, **given):
    """Compare a loss on features with `formula(student, teacher)`: value, and some entries of each gradient."""
    value, slopes = gradients(loss, student, teacher, **given)
    assert value == pytest.approx(formula(student, teacher), rel=1e-10, abs=1e-14)
    largest = max(np.abs(slope).max() for slope in slopes)
    random = np.random.default_rng(1)
    for number, slope in enumerate(slopes):

        def of_feature(array, number=number):
            return formula([*student[:number], array, *student[number + 1 :]], teacher)

        for place in random.choice(slope.size, min(entries, slope.size), replace=False):
            expected = central_difference(of_feature, student[number], place)
            assert slope.flat[place] == pytest.approx(expected, abs=2e-6 * largest + 1e-9), (number, place)


def softmax(values):
    """Softmax over the last axis."""
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def average_pool(feature, height, width):
    """Adaptive average pooling, window by window."""
    rows, columns = feature.shape[1:3]
    out = np.empty((len(feature), height, width, feature.shape[-1]))
    for i in range(height):
        for j in range(width):
            down = slice(i * rows // height, -(-(i + 1) * rows // height))
            across = slice(j * columns // width, -(-(j + 1) * columns // width))
            out[:, i, j] = feature[:, down, across].mean(axis=(1, 2))
    return out


def match_sizes(first, second):
    """Both maps pooled to the smaller height and width."""
    size = np.minimum(first.shape[1:3], second.shape[1:3])
    return average_pool(first, *size), average_pool(second, *size)
