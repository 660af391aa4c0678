"""Traced functions whose variables are replaced by constants."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.models.hardware import read_processor_flags
from kdcli.models.saved_model.constant_function import ConstantFunction

RANDOM = np.random.default_rng(0)
X = tf.constant(RANDOM.standard_normal((5, 16)), tf.float32)
FIRST = RANDOM.standard_normal((16, 16)).astype(np.float32)
LAST = RANDOM.standard_normal((16, 3)).astype(np.float32)


class Weights:
    """Two variables, and functions of them."""

    def __init__(self):
        self.first, self.last = tf.Variable(FIRST), tf.Variable(LAST)

    def compute(self, raw, scale):
        hidden = tf.nn.relu(raw["x"] @ self.first) * scale
        return {"hidden": hidden, "logits": tf.nn.bias_add(hidden @ self.last, [1.0, 2.0, 3.0])}

    def trace(self, function=None):
        spec = {"x": tf.TensorSpec((None, 16), tf.float32)}
        traced = tf.function(function or self.compute, autograph=False)
        return traced.get_concrete_function(spec, tf.TensorSpec((), tf.float32))


def test_outputs_equal_those_of_the_function_at_any_batch_size():
    weights = Weights()
    constant = ConstantFunction(weights.trace(), exact="logits")
    for rows in (5, 2):
        expected = weights.compute({"x": X[:rows]}, 2.0)
        found = constant({"x": X[:rows]}, tf.constant(2.0))
        assert set(found) == {"hidden", "logits"}
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


def test_later_changes_of_weights_have_no_effect():
    weights = Weights()
    constant = ConstantFunction(weights.trace(), exact="logits")
    before = constant({"x": X}, tf.constant(1.0))["logits"]
    weights.first.assign(tf.zeros_like(weights.first))
    np.testing.assert_array_equal(constant({"x": X}, tf.constant(1.0))["logits"], before)


def test_half_precision_ends_before_the_last_product():
    if not read_processor_flags():
        pytest.skip("this processor does not multiply bfloat16")
    weights = Weights()
    constant = ConstantFunction(weights.trace(), precision="mixed_bfloat16", exact="logits")
    found = constant({"x": X}, tf.constant(2.0))
    exact = weights.compute({"x": X}, 2.0)
    assert not np.array_equal(found["hidden"], exact["hidden"])
    np.testing.assert_allclose(found["hidden"], exact["hidden"], rtol=0.02, atol=0.1)
    # What follows is computed in float32 from what came before.
    expected = found["hidden"].numpy() @ LAST + np.float32([1, 2, 3])
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-5, atol=1e-5)


def test_a_result_that_depends_on_more_than_the_last_product_is_not_split():
    weights = Weights()

    def compute(raw, scale):
        return {"logits": weights.compute(raw, scale)["logits"] * scale + raw["x"][:, :3]}

    constant = ConstantFunction(weights.trace(compute), precision="mixed_bfloat16", exact="logits")
    expected = compute({"x": X}, 2.0)["logits"]
    np.testing.assert_allclose(constant({"x": X}, tf.constant(2.0))["logits"], expected, rtol=0.02, atol=0.5)


def test_functions_that_change_variables_or_use_tables_are_not_made_constant():
    weights = Weights()

    def counting(raw, scale):
        weights.first.assign_add(tf.ones_like(weights.first))
        return weights.compute(raw, scale)

    with pytest.raises(ValueError, match="it changes its variables"):
        ConstantFunction(weights.trace(counting), exact="logits")
    keys = tf.constant([0, 1], tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, tf.constant([5.0, 6.0])), -1.0)

    def looking_up(raw, scale):
        return {"logits": weights.compute(raw, table.lookup(tf.cast(scale, tf.int64)))["logits"]}

    with pytest.raises(ValueError, match=r"it needs more than its variables"):
        ConstantFunction(weights.trace(looking_up), exact="logits")
