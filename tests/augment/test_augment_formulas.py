"""Every augmentation compared with NumPy on small images."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from kdcli.augment import Brightness, Contrast, Crop, Cutout, Flip, Rotate, Shift

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(1, 256, (4, 5, 7, 2), dtype=np.uint8)


def apply(augment, draws, images=IMAGES):
    table = np.asarray(draws, np.float32)
    return augment(tf.convert_to_tensor(images), tf.constant(table)).numpy()


@pytest.mark.parametrize(("axis", "number"), [("horizontal", 2), ("vertical", 1)])
def test_flip_mirrors_images_with_draws_below_one_half(axis, number):
    found = apply(Flip(axis=axis), [[0.0], [0.49], [0.5], [0.99]])
    expected = IMAGES.copy()
    expected[:2] = np.flip(IMAGES, number)[:2]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("augment", [Crop(padding=2), Shift(pixels=2)], ids=["crop", "shift"])
def test_crop_and_shift_cut_windows_of_the_padded_image(augment):
    draws = [[0.0, 0.0], [0.5, 0.5], [0.99, 0.99], [0.21, 0.79]]
    corners = [(0, 0), (2, 2), (4, 4), (1, 3)]
    padded = np.pad(IMAGES, [(0, 0), (2, 2), (2, 2), (0, 0)])
    expected = [padded[n, y : y + 5, x : x + 7] for n, (y, x) in enumerate(corners)]
    np.testing.assert_array_equal(apply(augment, draws), expected)


def test_rotation_by_quarter_turns_equals_numpy():
    square = RANDOM.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    # Draws map to -180 to +180 degrees.
    found = apply(Rotate(degrees=180.0), [[0.0], [0.25], [0.5], [0.75], [0.25]], square)
    turns = [2, 1, 0, 3, 1]
    expected = np.stack([np.rot90(image, turn) for image, turn in zip(square, turns, strict=True)])
    assert np.abs(found.astype(int) - expected).max() <= 1


def bilinear(image, rows, columns):
    """Bilinear interpolation with loops; zero outside."""
    height, width = image.shape[:2]
    result = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            top, left = int(np.floor(rows[y, x])), int(np.floor(columns[y, x]))
            for down in (0, 1):
                for right in (0, 1):
                    i, j = top + down, left + right
                    if 0 <= i < height and 0 <= j < width:
                        weight = (1 - abs(rows[y, x] - i)) * (1 - abs(columns[y, x] - j))
                        result[y, x] += weight * image[i, j]
    return result


@pytest.mark.parametrize("draw", [0.0, 0.13, 0.4, 0.77, 0.999])
def test_rotation_by_any_angle_equals_interpolation_with_loops(draw):
    images = RANDOM.random((1, 5, 7, 2)).astype(np.float32)
    angle = np.deg2rad((2 * draw - 1) * 50.0)
    down, right = np.mgrid[:5, :7] - np.array([2.0, 3.0])[:, None, None]
    rows = np.cos(angle) * down - np.sin(angle) * right + 2.0
    columns = np.sin(angle) * down + np.cos(angle) * right + 3.0
    found = apply(Rotate(degrees=50.0), [[draw]], images)[0]
    np.testing.assert_allclose(found, bilinear(images[0], rows, columns), atol=2e-5)


def test_brightness_adds_a_fraction_of_white_and_clips():
    images = np.array([0, 100, 250], np.uint8).reshape(1, 1, 3, 1)
    found = [apply(Brightness(amount=0.2), [[draw]], images).ravel().tolist() for draw in (0.0, 0.5, 0.9999)]
    assert found == [[0, 49, 199], [0, 100, 250], [51, 151, 255]]


def test_brightness_does_not_clip_floats():
    images = np.array([0.0, 0.9], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(apply(Brightness(amount=0.5), [[0.0]], images).ravel(), [-0.5, 0.4], atol=1e-6)
    np.testing.assert_allclose(apply(Brightness(amount=0.5), [[0.75]], images).ravel(), [0.25, 1.15], atol=1e-6)


def test_contrast_scales_around_the_mean_of_the_image():
    images = np.array([[100, 110, 120], [0, 0, 255]], np.uint8).reshape(2, 1, 3, 1)
    found = apply(Contrast(amount=0.5), [[0.9999999], [0.9999999]], images).reshape(2, 3)
    assert found[0].tolist() == [95, 110, 125]
    # Mean 85, factor 1.5: -42.5 and 340 are clipped.
    assert found[1].tolist() == [0, 0, 255]
    flat = apply(Contrast(amount=1.0), [[0.0], [0.0]], images).reshape(2, 3)
    assert flat.tolist() == [[110] * 3, [85] * 3]


def test_cutout_hides_a_square_clipped_at_the_border():
    found = apply(Cutout(size=3), [[0.5, 0.5], [0.0, 0.0], [0.99, 0.99], [0.0, 0.5]])
    expected = IMAGES.copy()
    expected[0, 1:4, 2:5] = expected[1, :2, :2] = expected[2, 3:, 5:] = expected[3, :2, 2:5] = 0
    np.testing.assert_array_equal(found, expected)


def test_cutout_of_even_size_has_that_size():
    found = apply(Cutout(size=2), [[0.5, 0.5]] * 4)
    assert [int((image == 0).all(-1).sum()) for image in found] == [4] * 4


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Crop, {"padding": 0}),
        (Rotate, {"degrees": 0.0}),
        (Rotate, {"degrees": 181.0}),
        (Brightness, {"amount": -0.1}),
        (Contrast, {"amount": 1.5}),
        (Cutout, {"size": 0}),
        (Cutout, {"length": 4}),
    ],
)
def test_invalid_options_are_refused(kind, options):
    with pytest.raises(ValidationError):
        kind(**options)
