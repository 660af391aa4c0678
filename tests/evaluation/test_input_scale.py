"""The scale that a network wants, found on examples."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.data.arrays import splits_from_arrays
from kdcli.evaluation.input_scale import choose_scale
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.preparation import Preparation

RANDOM = np.random.default_rng(0)


def examples(*, dtype="uint8", channels=1, bright_share=0.5):
    """Dark pictures of class 0 and bright ones of class 1."""
    labels = (np.arange(200) < 200 * bright_share).astype(int)
    pictures = RANDOM.integers(0, 90, (200, 4, 4, channels)) + 150 * labels[:, None, None, None]
    return splits_from_arrays({"x": pictures.astype(dtype), "y": labels}, name="d").train


def brightness(middle, *, dtype="uint8", channels=1, slope=1.0):
    """A network that says class 1 when the mean of what it sees is above `middle`."""
    inputs = keras.Input((4, 4, channels))
    dense = keras.layers.Dense(2)
    model = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(inputs)))
    kernel = np.zeros((channels, 2), np.float32)
    kernel[:, 1] = slope / channels
    dense.set_weights([kernel, np.array([slope * middle, 0], np.float32)])
    preparation = Preparation((4, 4, channels), dtype, (4, 4, channels), "float32")
    return KerasNetwork(model, name="given").with_preparations({"x": preparation})


@pytest.mark.parametrize(("middle", "scale"), [(120, "raw"), (120 / 255, "unit"), (120 / 127.5 - 1, "signed")])
def test_the_scale_that_a_network_was_made_for_is_found(middle, scale):
    choice = choose_scale(brightness(middle), examples(), seed=0)
    assert choice.scale == scale
    assert choice.accuracies[scale] == 1.0
    # No other one can be 5 points better than one that is always right.
    assert set(choice.accuracies) == ({"unit"} if scale == "unit" else {"unit", "signed", "raw"})


def test_scales_for_colours_are_tried_on_pictures_with_three_channels():
    choice = choose_scale(brightness((120 / 255 - 0.449) / 0.226, channels=3), examples(channels=3), seed=0)
    assert set(choice.accuracies) == {"unit", "signed", "raw", "imagenet", "caffe"}
    assert choice.accuracies["imagenet"] == 1.0


def test_unit_stays_where_another_scale_is_hardly_better():
    known = examples()
    flipped = known.labels.copy()
    flipped[:8] = 1 - flipped[:8]
    # Right under `unit` for all but the 8 flipped; no other scale is 5 points better.
    noisy = splits_from_arrays({"x": known.inputs["x"], "y": flipped}, name="d").train
    choice = choose_scale(brightness(120 / 255), noisy, seed=0)
    assert (choice.scale, choice.accuracies["unit"]) == ("unit", 0.96)


def test_a_network_at_chance_gets_unit():
    choice = choose_scale(brightness(1000), examples(), seed=0)
    assert (choice.scale, set(choice.accuracies.values())) == ("unit", {0.5})


def test_a_network_that_only_names_one_class_is_at_chance_and_gets_unit():
    # Names the rare class under `unit` and `signed` and the frequent one under `raw`, whatever the picture.
    choice = choose_scale(brightness(10, slope=-1.0), examples(bright_share=0.1), seed=0)
    assert choice.scale == "unit"


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_other_types_than_uint8_are_not_measured(dtype):
    choice = choose_scale(brightness(120, dtype=dtype), examples(dtype=dtype), seed=0)
    assert (choice.scale, choice.accuracies) == ("unit", {})


def test_unlabelled_pictures_are_not_measured():
    split = splits_from_arrays({"x": examples().inputs["x"]}, name="d").train
    assert choose_scale(brightness(120), split, seed=0).accuracies == {}


def test_the_network_that_was_measured_stays_as_it_was():
    network = brightness(120)
    choose_scale(network, examples(), seed=0)
    assert network.preparations["x"].scale == "unit"
