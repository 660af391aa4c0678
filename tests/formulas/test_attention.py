"""Attention as a direction: of length 1 for features of any size."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.formulas.attention import attention_map
from kdcli.losses import make


@pytest.mark.parametrize("scale", [1.0, 1e10, 1e30])
@pytest.mark.parametrize("power", [1, 2, 3, 8])
def test_it_does_not_depend_on_the_size_of_the_feature(power, scale):
    feature = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    flat = np.mean(feature**power, axis=-1).reshape(2, 12)
    found = attention_map(tf.constant(scale * feature, "float32"), power)
    np.testing.assert_allclose(found, flat / np.linalg.norm(flat, axis=1, keepdims=True), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), [("attention_transfer", {"p": 4}), ("factor_transfer", {"p1": 4})])
def test_losses_of_large_maps_are_those_of_small_ones(kind, options):
    random = np.random.default_rng(0)
    student, teacher = (tf.constant(random.normal(size=(2, 3, 3, 4)), tf.float32) for _ in range(2))
    loss, large = make(kind, **options), 1e30 * student
    with tf.GradientTape() as tape:
        tape.watch(large)
        value = loss(student=large, teacher=1e30 * teacher)
    np.testing.assert_allclose(value, loss(student=student, teacher=teacher), rtol=1e-4)
    assert np.isfinite(tape.gradient(value, large)).all()
