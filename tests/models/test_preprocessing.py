"""Preprocessing: from raw examples to a network's input."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.models.preprocessing import SCALES, make_preprocessing
from kdcli.recipe.model_sections import InputSection

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
REFERENCE = {
    "unit": lambda x: x / 255,
    "signed": lambda x: x / 127.5 - 1,
    "raw": lambda x: x,
    "imagenet": lambda x: (x / 255 - MEAN) / DEVIATION,
    "caffe": lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68]),
}


def made(raw, shape, *, dtype="float32", **section):
    return make_preprocessing(
        InputSection(**section),
        raw_shape=raw.shape[1:],
        raw_dtype=str(raw.dtype),
        shape=shape,
        dtype=dtype,
        name="teacher (t.keras)",
    )


def prepared(raw, shape, **section):
    return np.asarray(made(raw, shape, **section)(raw))


def refused(raw, shape, **section):
    with pytest.raises(ModelError) as caught:
        made(raw, shape, **section)
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.parametrize("scale", SCALES)
def test_each_scale_equals_its_reference(scale):
    found = prepared(IMAGES, (6, 5, 3), scale=scale)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, REFERENCE[scale](IMAGES.astype(np.float64)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scale", "mode"), [("imagenet", "torch"), ("caffe", "caffe"), ("signed", "tf")])
def test_published_scales_equal_those_of_keras(scale, mode):
    expected = keras.applications.imagenet_utils.preprocess_input(IMAGES.astype(np.float32), mode=mode)
    np.testing.assert_allclose(prepared(IMAGES, (6, 5, 3), scale=scale), expected, rtol=1e-5, atol=1e-5)


def test_auto_starts_as_unit():
    assert made(IMAGES, (6, 5, 3)).scale == "unit"


def test_with_scale_does_not_change_the_original():
    first = made(IMAGES, (6, 5, 3))
    assert (first.with_scale("raw").scale, first.scale) == ("raw", "unit")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint16"])
def test_other_types_than_uint8_pass_unscaled(dtype):
    raw = IMAGES.astype(dtype)
    found = made(raw, (6, 5, 3), scale="imagenet")
    assert not found.is_scaled
    np.testing.assert_array_equal(found(raw), IMAGES.astype(np.float32))
    expected = {"shape": [6, 5, 3], "dtype": "float32", "scale": None, "resize": None, "fit": "stretch"}
    assert found.to_json() == expected


def test_rows_of_numbers_are_not_images():
    raw = RANDOM.integers(0, 256, (3, 7), dtype=np.uint8)
    np.testing.assert_array_equal(prepared(raw, (7,)), raw.astype(np.float32))


def test_the_result_has_the_networks_input_type():
    assert made(IMAGES, (6, 5, 3), dtype="uint8", scale="raw")(IMAGES).dtype == "uint8"


def test_a_missing_channel_axis_is_added():
    raw = IMAGES[..., 0]
    found = made(raw, (6, 5, 1))
    assert found.preprocessed_shape == (6, 5, 1)
    np.testing.assert_allclose(found(raw), raw[..., None] / 255, rtol=1e-5)


def test_a_superfluous_channel_axis_is_removed():
    raw = IMAGES[..., :1]
    found = made(raw, (6, 5))
    assert found.preprocessed_shape == (6, 5)
    np.testing.assert_allclose(found(raw), raw[..., 0] / 255, rtol=1e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_an_image_without_channels_is_resized_like_one_with_channels(flat):
    raw = IMAGES[..., 0]
    found = made(raw, (4, 3) if flat else (4, 3, 1))
    expected = made(raw[..., None], (4, 3, 1))(raw[..., None])
    np.testing.assert_allclose(np.asarray(found(raw)).reshape(3, 4, 3, 1), expected, rtol=1e-6)


def test_images_are_resized_to_the_networks_size_before_scaling():
    found = made(IMAGES, (12, 10, 3), scale="signed")
    expected = keras.ops.image.resize(
        IMAGES.astype(np.float32), (12, 10), antialias=True, data_format="channels_last"
    )
    assert found.size == (12, 10)
    np.testing.assert_allclose(found(IMAGES), np.asarray(expected) / 127.5 - 1, atol=1e-5)


def test_halving_an_image_averages_pixels():
    raw = np.zeros((1, 8, 8, 1), np.uint8)
    raw[:, ::2] = 200
    found = prepared(raw, (4, 4, 1), scale="raw")
    np.testing.assert_allclose(found[:, 1:-1], 100, atol=1e-3)


def test_a_size_can_be_set_where_the_network_accepts_any():
    found = made(IMAGES, (None, None, 3), resize=[4, 4])
    assert found.preprocessed_shape == (4, 4, 3)
    assert found(IMAGES).shape == (3, 4, 4, 3)
    assert made(IMAGES, (None, None, 3)).preprocessed_shape == (6, 5, 3)


def wide():
    """An image of 4×8 whose columns are numbered."""
    return np.broadcast_to(np.arange(8, dtype=np.uint8)[None, None, :, None], (1, 4, 8, 1)).copy()


def test_crop_uses_the_middle():
    found = prepared(wide(), (4, 4, 1), scale="raw", fit="crop")
    np.testing.assert_allclose(found[0, :, :, 0], np.tile([2.0, 3, 4, 5], (4, 1)), atol=1e-4)


def test_pad_adds_zeros_around_the_image():
    found = prepared(wide() + 1, (8, 8, 1), scale="raw", fit="pad")[0, :, :, 0]
    np.testing.assert_allclose(found[2:6], np.tile(np.arange(1.0, 9), (4, 1)), atol=1e-4)
    assert (found[:2] == 0).all()
    assert (found[6:] == 0).all()


def test_stretch_changes_the_proportions():
    found = prepared(wide(), (8, 8, 1), scale="raw", fit="stretch")[0, :, :, 0]
    np.testing.assert_allclose(found, np.tile(np.arange(8.0), (8, 1)), atol=1e-4)


def test_the_plan_shows_scale_and_size():
    found = made(IMAGES, (4, 4, 3), scale="caffe", fit="crop").to_json()
    expected = {"shape": [4, 4, 3], "dtype": "float32", "scale": "caffe", "resize": [4, 4], "fit": "crop"}
    assert found == expected


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((6, 5, 1), "teacher (t.keras) takes inputs of shape 6×5×1, the data has 6×5×3"),
        ((90,), "teacher (t.keras) takes inputs of shape 90, the data has 6×5×3"),
        ((None, None, 1), "teacher (t.keras) takes inputs of shape any×any×1, the data has 6×5×3"),
        ((9, 9, 1), "takes inputs of shape 9×9×1, the data has 6×5×3 (resized: 9×9×3)"),
        ((6, 5), "takes inputs of shape 6×5, the data has 6×5×3"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both(shape, text):
    error = refused(IMAGES, shape)
    assert text in error.message
    assert "channels" in error.hint


@pytest.mark.parametrize("scale", ["imagenet", "caffe"])
def test_scales_for_colours_need_three_channels(scale):
    message = refused(IMAGES[..., :1], (6, 5, 1), scale=scale).message
    assert message == f"teacher (t.keras): input.scale {scale} needs 3 channels, the data has 1"
