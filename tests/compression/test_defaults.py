"""What the default recipe leaves to the data and the teacher."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import blobs

from kdcli.augment.contrast import Contrast
from kdcli.augment.crop import Crop
from kdcli.augment.flip import Flip
from kdcli.augment.rotate import Rotate
from kdcli.augment.shift import Shift
from kdcli.compression.defaults import add_augmentation, convert_layer, drop_label_losses
from kdcli.models.keras.network import KerasNetwork
from kdcli.setup.request import make_request
from kdcli.setup.run_location import open_data

LAYERS = keras.layers


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (LAYERS.RandomFlip("horizontal"), [Flip()]),
        (LAYERS.RandomFlip("horizontal_and_vertical"), [Flip(axis="horizontal"), Flip(axis="vertical")]),
        (LAYERS.RandomTranslation(0.1, (-0.2, 0.2)), [Shift(pixels=6)]),
        (LAYERS.RandomRotation(0.05), [Rotate(degrees=18.0)]),
        (LAYERS.RandomContrast(0.3), [Contrast(amount=0.3)]),
        (LAYERS.RandomZoom(0.2), []),
        (LAYERS.RandomTranslation(0.0, 0.0), []),
    ],
)
def test_a_layer_becomes_the_augmentation_that_does_the_same(layer, expected):
    assert convert_layer(layer, (32, 32, 3)) == expected


def photos(count=40, side=32, channels=3):
    x = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return x, np.arange(count) % 2


def augmentation(data, *layers, recipe=None, settings=()):
    request = make_request(recipe, default="compress", data=data, settings=settings)
    dataset = open_data(request)
    inputs = keras.Input(dataset.input_shape)
    x = inputs
    for layer in layers:
        x = layer(x)
    model = keras.Model(inputs, LAYERS.Dense(2)(LAYERS.Flatten()(x)))
    request, texts = add_augmentation(request, dataset, KerasNetwork(model, name="teacher"))
    return request.recipe.data.augment, texts


def test_photos_are_cropped_lightly_and_not_flipped():
    found, texts = augmentation(photos())
    assert found == (Crop(padding=4),)
    assert texts == ["augmentation, because the images are photos: {kind: crop, padding: 4}"]


def test_images_are_flipped_if_the_teacher_flips_them():
    found, texts = augmentation(photos(), LAYERS.RandomFlip("horizontal"), LAYERS.RandomZoom(0.1, name="zoom"))
    assert found == (Flip(), Crop(padding=4))
    assert "augmentation layer zoom of the teacher has no equivalent in kd" in texts[0]
    assert "as in the layers of the teacher, with light crops" in texts[1]


def test_a_teacher_that_shifts_images_needs_no_crops():
    assert augmentation(photos(), LAYERS.RandomTranslation(0.1, 0.1))[0] == (Shift(pixels=3),)


@pytest.mark.parametrize("data", [blobs(40), photos(channels=1), photos(side=16)])
def test_other_images_are_left_alone(data):
    assert augmentation(data)[0] == ()


def test_a_recipe_or_an_option_decides():
    assert augmentation(photos(), LAYERS.RandomFlip(), recipe="soft-targets")[0] == ()
    assert augmentation(photos(), settings=["data.augment=[]"])[0] == ()
    assert augmentation(photos(), settings=["data.augment=[{kind: flip}]"])[0] == (Flip(),)


def test_unlabelled_data_has_no_label_loss():
    x, y = blobs(40)
    kinds = []
    for data in ((x, y), {"x": x}):
        request = drop_label_losses(make_request(None, default="compress", data=data))
        kinds.append([loss.kind for loss in request.recipe.losses])
    assert kinds == [["labels", "soft_targets"], ["soft_targets"]]
