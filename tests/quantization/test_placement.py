"""Where an 8-bit file rounds: fused clipping, shared and fixed ranges, layers without an 8-bit form."""

from __future__ import annotations

import keras
import pytest

from kdcli.errors import ModelError
from kdcli.quantization.folded_model import fold_model
from kdcli.quantization.placement import Fixed, place_ranges

layers = keras.layers


def place(build):
    inputs = keras.Input((8, 8, 4), name="image")
    return place_ranges(fold_model(keras.Model(inputs, build(inputs))))


def test_a_clipping_that_is_fused_rounds_instead_of_the_convolution():
    found = place(lambda x: layers.ReLU(name="relu")(layers.Conv2D(4, 3, name="convolution")(x)))
    assert found.ranges == ("image", "relu")
    assert set(found.outputs) == {"relu"}


def test_an_output_that_is_used_twice_rounds_before_the_clipping():
    def build(x):
        x = layers.Conv2D(4, 3, padding="same", name="convolution")(x)
        return layers.Add(name="sum")([x, layers.ReLU(name="relu")(x)])

    assert place(build).ranges == ("image", "convolution", "relu", "sum")


def test_inputs_of_a_concatenation_have_one_range_through_pooling():
    def build(x):
        one = layers.Conv2D(4, 3, padding="same", name="one")(x)
        other = layers.MaxPooling2D(1, name="pool")(layers.Conv2D(4, 1, name="other")(x))
        return layers.Concatenate(name="both")([one, other])

    found = place(build)
    assert found.ranges in (("image", "one"), ("image", "other"))
    assert found.outputs == {"one": 1, "other": 1, "both": 1}


def test_a_sigmoid_has_the_range_of_the_runtime_and_cannot_be_joined():
    def build(x, joins=False):
        gate = layers.Activation("sigmoid", name="gate")(layers.Conv2D(4, 1, name="convolution")(x))
        return layers.Concatenate(name="both")([gate, layers.Conv2D(4, 1)(x)]) if joins else gate

    assert place(build).outputs["gate"] == Fixed(0.0, 255 / 256)
    with pytest.raises(ModelError, match="both joins the output of gate"):
        place(lambda x: build(x, joins=True))


def test_layers_without_an_8_bit_form_are_named():
    found = place(lambda x: layers.Dense(2)(layers.LayerNormalization(name="normalization")(layers.Flatten()(x))))
    assert found.floats == ("normalization",)
    assert "normalization" in found.outputs
