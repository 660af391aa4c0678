"""Directions: length 1 wherever there is a direction, and a finite gradient everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.formulas.vectors import normalize_length


@pytest.mark.parametrize("scale", [1.0, 1e-11, 1e30])
def test_vectors_of_any_size_have_length_one(scale):
    vectors = tf.constant([[3.0, 4.0], [-5.0, 12.0]], tf.float32) * scale
    np.testing.assert_allclose(normalize_length(vectors), [[0.6, 0.8], [-5 / 13, 12 / 13]], rtol=1e-6)


def test_vectors_shorter_than_the_published_clamp_are_divided_by_it():
    np.testing.assert_allclose(normalize_length(tf.constant([[3e-14, 4e-14]])), [[0.03, 0.04]], rtol=1e-6)


def test_the_gradient_is_that_of_dividing_by_the_norm():
    random = np.random.default_rng(0)
    vectors, weights = (tf.constant(random.normal(size=(4, 3, 5))) for _ in range(2))
    slopes = []
    for formula in (normalize_length, lambda given: given / tf.norm(given, axis=-1, keepdims=True)):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            value = tf.reduce_sum(weights * formula(vectors))
        slopes.append(tape.gradient(value, vectors).numpy())
    np.testing.assert_allclose(*slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_no_vector_has_a_gradient_that_is_not_finite(scale):
    vectors = tf.constant([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]]) * scale
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        directions = normalize_length(vectors)
        value = tf.reduce_sum(directions**3)
    assert np.isfinite(tape.gradient(value, vectors).numpy()).all()
    assert not directions[1].numpy().any()
