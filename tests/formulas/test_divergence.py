"""The divergence keeps its digits where student and teacher are close, and is finite where they are far apart."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.formulas.divergence import cross_entropy, divergence


def drawn(shape=(6, 5), seed=0, size=2.0):
    random = np.random.default_rng(seed)
    return (tf.constant(size * random.normal(size=shape)) for _ in range(2))


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("size", [0.1, 2.0, 20.0])
def test_it_is_the_sum_of_q_times_the_logarithm_of_q_over_p(axis, size):
    student, teacher = drawn((4, 5, 3), size=size)
    slopes = []

    def written_again():
        p, q = (tf.nn.softmax(logits, axis=axis) for logits in (student, teacher))
        return tf.reduce_sum(q * tf.math.log(q / p), axis=axis)

    for formula in (lambda: divergence(student, teacher, axis=axis), written_again):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = formula()
        slopes.append((value, tape.gradient(value, student)))
    for found, wanted in zip(*slopes, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-4])
def test_a_small_divergence_keeps_its_digits_in_single_precision(step):
    random = np.random.default_rng(0)
    teacher = (random.integers(-64, 64, (4, 100)) / 32).astype("float32")
    student = (teacher + step * random.normal(size=teacher.shape)).astype("float32")
    expected = divergence(tf.constant(student, tf.float64), tf.constant(teacher, tf.float64))
    np.testing.assert_allclose(divergence(student, teacher), expected, rtol=1e-6 / step)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_far_apart_give_a_finite_value_and_gradient(dtype):
    teacher = tf.constant([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0], [-800.0, 0.0, 3.0]], dtype)
    for student in (-teacher, teacher, 0.0 * teacher, teacher[::-1]):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = divergence(student, teacher)
        assert (value.numpy() >= 0).all() and np.isfinite(value).all()
        assert np.isfinite(tape.gradient(value, student)).all()


def test_the_cross_entropy_is_the_divergence_and_the_teachers_entropy():
    student, teacher = drawn()
    own = cross_entropy(teacher, teacher)
    np.testing.assert_allclose(cross_entropy(student, teacher), divergence(student, teacher) + own, rtol=1e-12)
