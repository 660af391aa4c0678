"""Models for smaller images: the same function of an image of that size, and refusals."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from random_graphs import randomize

from kdcli.errors import ModelError
from kdcli.shrinking.resolution import resize_input, scale_side


def convolutional(size, *, nested=False):
    inputs = keras.Input((size, size, 3))
    body = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(6, 3, strides=2, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.DepthwiseConv2D(3, padding="same"),
        ]
    )
    x = body(inputs) if nested else inputs
    if not nested:
        for layer in body.layers:
            x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4)(x))


@pytest.mark.parametrize("nested", [False, True])
def test_the_smaller_model_is_the_same_function_of_a_smaller_image(nested):
    model = convolutional(32, nested=nested)
    randomize(model)
    small = resize_input(model, 0.5)
    assert small.input_shape == (None, 16, 16, 3)
    # Built for this size by plain Keras, with the same weights.
    expected = convolutional(16, nested=nested)
    expected.set_weights(model.get_weights())
    image = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(small(image), expected(image), rtol=1e-5, atol=1e-5)


def test_the_whole_side_returns_the_model_itself():
    model = convolutional(32)
    assert resize_input(model, 1) is model


@pytest.mark.parametrize(
    ("side", "fraction", "expected"), [(224, 0.75, 168), (96, 0.5, 48), (28, 0.5, 14), (30, 0.75, 22)]
)
def test_sides_stay_multiples_of_eight_where_they_were(side, fraction, expected):
    assert scale_side(side, fraction) == expected


def test_weights_that_depend_on_the_size_are_refused():
    model = keras.Sequential(
        [keras.Input((16, 16, 1)), keras.layers.Flatten(), keras.layers.Dense(2, name="head")]
    )
    with pytest.raises(ModelError, match="the weights of head depend on the size of the image"):
        resize_input(model, 0.5)


@pytest.mark.parametrize("shape", [(20,), (None, None, 3), (16, 16, 32)])
def test_inputs_that_are_no_image_of_a_fixed_size_are_refused(shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ModelError, match="the input must be one image of fixed size"):
        resize_input(model, 0.5)
