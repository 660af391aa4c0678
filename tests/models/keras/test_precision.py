"""Half precision affects all layers except those of the logits, until the block ends."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import X, subclassed

from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.precision import compute_in, find_logits_layers
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.saved_model.constant_function import use_graph_precision

layers = keras.layers


class Ending(keras.Model):
    """A subclassed model whose softmax is no layer."""

    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(6, name="first"), layers.Dense(5, name="second")]
        self.out = layers.Dense(3, name="out")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return keras.ops.softmax(self.out(x))


class Block(keras.layers.Layer):
    """A layer of layers, whose own `call` computes too."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(4, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x) * 2.0


def sequence(*ending):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = Block(name="block")(inputs)
    nested = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="deep"), layers.ReLU()], name="nested")
    return keras.Model(inputs, keras.Sequential([keras.Input((5,)), *ending], name="head")(nested(x)))


def ending():
    model = Ending()
    model(X)
    return model


def two_outputs():
    inputs = keras.Input((4,))
    x = layers.Dense(5, name="body")(inputs)
    return keras.Model(inputs, {"a": layers.Dense(2, name="a")(x), "b": layers.Dense(3, name="b")(x)})


MODELS = {
    "dense": (lambda: sequence(layers.Dense(3, name="out")), {"out"}),
    "softmax layer": (lambda: sequence(layers.Dense(3, name="out"), layers.Softmax(name="s")), {"out", "s"}),
    "normalised": (
        lambda: sequence(layers.Dense(3, name="out"), layers.BatchNormalization(name="n"), layers.ReLU(name="r")),
        {"out", "n", "r"},
    ),
    "frozen": (lambda: sequence(layers.Dense(3, name="out", trainable=False)), {"out"}),
    "dropped and reshaped": (
        lambda: sequence(
            layers.Dense(6, name="out"), layers.Dropout(0.5, name="d"), layers.Reshape((2, 3), name="r")
        ),
        {"out", "d", "r"},
    ),
    "subclassed": (ending, {"out"}),
    "plain subclassed": (subclassed, {"dense_1"}),
}


def network(model, **options):
    preprocessing = Preprocessing((4,), "float32", (4,), "float32")
    return KerasNetwork(model, name="given", **options).with_preprocessing({"x": preprocessing})


@pytest.mark.parametrize("kind", MODELS)
def test_only_the_layers_of_the_logits_stay_in_float32(kind):
    build, exact = MODELS[kind]
    found = network(build())
    exact_layers = find_logits_layers(found)
    if kind != "plain subclassed":
        assert {layer.name for layer in exact_layers} == exact
    policies = [layer.dtype_policy for layer in found.layers]
    expected = found.compute({"x": X}).logits
    with compute_in(found, "mixed_bfloat16"):
        for layer in found.layers:
            half = not isinstance(layer, keras.Model) and not any(layer is one for one in exact_layers)
            assert layer.compute_dtype == ("bfloat16" if half else "float32"), layer.name
        logits = found.compute({"x": X}).logits
    assert logits.dtype == tf.float32
    # The layer before was in half precision, the logits themselves were not rounded to it.
    assert not np.array_equal(logits, expected)
    assert not np.array_equal(logits, tf.cast(tf.cast(logits, tf.bfloat16), tf.float32))
    np.testing.assert_allclose(logits, expected, atol=0.05)
    assert [layer.dtype_policy for layer in found.layers] == policies


def test_with_several_outputs_the_chosen_one_stays_in_float32():
    assert [layer.name for layer in find_logits_layers(network(two_outputs(), output="a"))] == ["a"]
    assert [layer.name for layer in find_logits_layers(network(two_outputs(), output="b"))] == ["b"]


def test_the_graph_option_is_restored_after_the_block():
    def option():
        return tf.config.optimizer.get_experimental_options().get("auto_mixed_precision_onednn_bfloat16", False)

    assert not option()
    with use_graph_precision("float32"):
        assert not option()
    with pytest.raises(RuntimeError, match="inside"), use_graph_precision("mixed_bfloat16"):
        assert option()
        with use_graph_precision("mixed_bfloat16"):
            pass
        assert option()
        raise RuntimeError("inside")
    assert not option()
