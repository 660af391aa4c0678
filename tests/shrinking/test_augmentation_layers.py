"""Augmentation layers: found, and left out of the model without changing what it computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from random_graphs import randomize

from kdcli.shrinking.augmentation_layers import find_augmentation, remove_augmentation

LAYERS = keras.layers


def build(*augmentation, nested=False):
    inputs = keras.Input((12, 12, 3))
    x = inputs
    if nested:
        x = keras.Sequential([keras.Input((12, 12, 3)), *augmentation], name="augment")(x)
    else:
        for layer in augmentation:
            x = layer(x)
    x = LAYERS.BatchNormalization()(LAYERS.Conv2D(4, 3)(x))
    model = keras.Model(inputs, LAYERS.Dense(2)(LAYERS.GlobalAveragePooling2D()(x)))
    randomize(model)
    return model


@pytest.mark.parametrize("nested", [False, True])
def test_the_model_without_augmentation_computes_the_same(nested):
    model = build(
        LAYERS.RandomFlip("horizontal"), LAYERS.RandomRotation(0.1), LAYERS.RandomZoom(0.2), nested=nested
    )
    bare = remove_augmentation(model)
    assert [layer.__class__.__name__ for layer in find_augmentation(model)] == [
        "RandomFlip", "RandomRotation", "RandomZoom"
    ]  # fmt: skip
    assert find_augmentation(bare) == []
    images = np.random.default_rng(0).uniform(0, 1, (4, 12, 12, 3)).astype(np.float32)
    expected = model(images, training=False)
    np.testing.assert_allclose(bare(images, training=False), expected, rtol=1e-6, atol=1e-6)
    # In training too, it leaves the images as they are.
    first, second = (np.asarray(bare(images, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_model_without_augmentation_is_returned():
    model = build()
    assert remove_augmentation(model) is model


def test_layers_that_change_images_in_inference_too_stay():
    model = build(LAYERS.Rescaling(1 / 255), LAYERS.Resizing(8, 8))
    assert find_augmentation(model) == []
