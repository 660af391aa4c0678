"""The batch normalization behind a tap."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.models.keras.batch_norm import find_normalization, list_normalized_taps
from kdcli.models.keras.network import KerasNetwork


def layers():
    from keras import layers

    return layers


def network(model):
    return KerasNetwork(model, name="teacher")


def numbered(normalization, channels=3):
    """Give a built normalization a scale of 1, 2, ... and a shift of −1, −2, ... ."""
    weights = normalization.get_weights()
    steps = np.arange(1, channels + 1, dtype="float32")
    if normalization.scale:
        weights[0] = steps
    if normalization.center:
        weights[1 if normalization.scale else 0] = -steps
    normalization.set_weights(weights)


@pytest.fixture
def model():
    """Functional: convolution, normalization and activations; a sum; a normalization that is not the last."""
    import keras

    make = layers()
    inputs = keras.Input((4, 4, 1))
    flow = make.Conv2D(3, 3, padding="same", name="convolution")(inputs)
    normalized = make.BatchNormalization(name="normalized")(flow)
    active = make.ReLU(name="active")(make.Identity(name="same")(normalized))
    added = make.Add(name="added")([active, normalized])
    late = make.Activation("relu", name="late")(make.BatchNormalization(scale=False, name="unscaled")(added))
    pooled = make.GlobalAveragePooling2D(name="pooled")(late)
    model = keras.Model(inputs, make.Dense(2, name="logits")(pooled))
    numbered(model.get_layer("normalized"))
    numbered(model.get_layer("unscaled"))
    return model


@pytest.mark.parametrize("tap", ["normalized", "same", "active"])
def test_scale_and_shift_of_a_normalization_and_of_layers_directly_after_it(model, tap):
    scale, shift = find_normalization(network(model), tap)
    assert np.asarray(scale).tolist() == [1.0, 2.0, 3.0]
    assert np.asarray(shift).tolist() == [-1.0, -2.0, -3.0]


def test_a_normalization_without_a_scale_has_scale_one(model):
    scale, shift = find_normalization(network(model), "late")
    assert np.asarray(scale).tolist() == [1.0] * 3
    assert np.asarray(shift).tolist() == [-1.0, -2.0, -3.0]


@pytest.mark.parametrize("tap", ["convolution", "added", "pooled", "logits"])
def test_other_taps_have_no_normalization(model, tap):
    assert find_normalization(network(model), tap) is None


def test_normalized_taps_are_listed(model):
    assert list_normalized_taps(network(model)) == ("normalized", "same", "active", "unscaled", "late")


def test_an_activation_is_matched_by_its_input_not_by_order():
    import keras

    make = layers()
    inputs = keras.Input((4, 4, 1))
    left = make.Conv2D(3, 1, name="left")(inputs)
    right = make.BatchNormalization(name="right")(make.Conv2D(3, 1)(inputs))
    active = make.ReLU(name="active")(left)
    model = keras.Model(inputs, make.Flatten()(make.Add()([active, right])))
    assert find_normalization(network(model), "active") is None


def test_nested_layers_and_the_end_of_a_nested_model():
    import keras

    make = layers()
    block = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            make.Conv2D(3, 1, name="convolution"),
            make.BatchNormalization(name="normalized"),
        ],
        name="block",
    )
    inputs = keras.Input((4, 4, 1))
    active = make.ReLU(name="active")(block(inputs))
    found = network(keras.Model(inputs, make.Dense(2)(make.Flatten()(active))))
    numbered(block.get_layer("normalized"))
    for tap in ("block/normalized", "block", "active"):
        assert np.asarray(find_normalization(found, tap)[0]).tolist() == [1.0, 2.0, 3.0]
    assert find_normalization(found, "block/convolution") is None


def test_a_subclassed_model():
    import keras

    make = layers()

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = make.Conv2D(3, 1, name="convolution")
            self.normalized = make.BatchNormalization(name="normalized")
            self.active = make.ReLU(name="active")
            self.end = make.Dense(2, name="end")

        def call(self, inputs, training=False):
            flow = self.active(self.normalized(self.convolution(inputs), training=training))
            return self.end(keras.ops.mean(flow, axis=(1, 2)))

    model = Own()
    model(np.zeros((1, 4, 4, 1), "float32"))
    found = network(model)
    numbered(model.normalized)
    assert np.asarray(find_normalization(found, "active")[1]).tolist() == [-1.0, -2.0, -3.0]
    assert find_normalization(found, "end") is None


def test_a_network_with_unknown_layers_has_no_normalization():
    assert find_normalization(object(), "normalized") is None
