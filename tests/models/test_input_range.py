"""What reaches the first layer with weights, against plain Keras on the same images."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.models.files.open import open_file
from kdcli.models.input_range import measure_input_range
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing

layers = keras.layers
SHAPE = (8, 8, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
BOUNDS = {"x": np.stack([np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)])}
FIRST = {
    "signed": lambda x: x / 127.5 - 1.0,
    "caffe": keras.applications.resnet.preprocess_input,
    "torch": keras.applications.densenet.preprocess_input,
    "rescaling behind augmentation": lambda x: layers.Rescaling(1 / 255)(layers.RandomFlip()(x)),
    "padding": lambda x: layers.ZeroPadding2D(2)(layers.Rescaling(1 / 255)(x)),
    "nothing": lambda x: x,
}


def model(name):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    first = FIRST[name](inputs)
    x = layers.Conv2D(2, 3, name="first")(first)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))), keras.Model(inputs, first)


def opened(built, form, folder):
    if form == "keras":
        network = KerasNetwork(built, name="m")
    else:
        built.export(folder / "m", verbose=False)
        network = open_file(folder / "m").network
    return network.with_preprocessing({"x": Preprocessing(SHAPE, "uint8", network.inputs[0].shape, "float32")})


@pytest.mark.parametrize(
    ("name", "form"),
    # A SavedModel with random layers is not frozen, and then its graph is not read.
    [
        *((name, "keras") for name in FIRST),
        *((name, "saved-model") for name in FIRST if "augmentation" not in name),
    ],
)
def test_values_before_the_weights_equal_those_of_plain_keras(name, form, tmp_path):
    built, before = model(name)
    network = opened(built, form, tmp_path)
    reached = network.with_scale("raw").compute_before_weights({"x": IMAGES})
    np.testing.assert_allclose(reached, before.predict(IMAGES.astype(np.float32), verbose=0), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("signed", (-1, 1)), ("caffe", (-123.68, 151.061)), ("padding", (0, 1)), ("nothing", (0, 255))],
)
def test_the_range_is_that_of_black_and_white_without_the_padding(name, expected, tmp_path):
    network = opened(model(name)[0], "keras", tmp_path)
    assert measure_input_range(network, "raw", BOUNDS) == pytest.approx(expected, abs=1e-3)


def test_the_range_of_a_model_with_a_fixed_batch_size(tmp_path):
    inputs = keras.Input(batch_shape=(3, *SHAPE))
    x = layers.Dense(2)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs)))
    network = opened(keras.Model(inputs, x), "keras", tmp_path)
    assert measure_input_range(network, "raw", BOUNDS) == pytest.approx((0, 1))


def test_the_range_of_a_network_without_weights_is_that_of_the_images(tmp_path):
    inputs = keras.Input(SHAPE)
    network = opened(keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs)), "keras", tmp_path)
    # Nothing changes the images, as far as it is known.
    assert measure_input_range(network, "raw", BOUNDS) == (0, 255)
