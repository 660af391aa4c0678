"""Every augmentation against a small case worked out with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from kdcli.augment import Brightness, Contrast, Crop, Cutout, Flip, Rotate, Shift

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(1, 256, (4, 5, 7, 2), dtype=np.uint8)


def made(augment, draws, pictures=PICTURES):
    table = np.asarray(draws, np.float32)
    return augment(tf.convert_to_tensor(pictures), tf.constant(table)).numpy()


@pytest.mark.parametrize(("axis", "number"), [("horizontal", 2), ("vertical", 1)])
def test_a_flip_mirrors_the_pictures_with_small_draws(axis, number):
    found = made(Flip(axis=axis), [[0.0], [0.49], [0.5], [0.99]])
    expected = PICTURES.copy()
    expected[:2] = np.flip(PICTURES, number)[:2]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("augment", [Crop(padding=2), Shift(pixels=2)], ids=["crop", "shift"])
def test_a_crop_and_a_shift_are_windows_of_the_padded_picture(augment):
    draws = [[0.0, 0.0], [0.5, 0.5], [0.99, 0.99], [0.21, 0.79]]
    corners = [(0, 0), (2, 2), (4, 4), (1, 3)]
    padded = np.pad(PICTURES, [(0, 0), (2, 2), (2, 2), (0, 0)])
    expected = [padded[n, y : y + 5, x : x + 7] for n, (y, x) in enumerate(corners)]
    np.testing.assert_array_equal(made(augment, draws), expected)


def test_quarter_and_half_turns_equal_numpy():
    square = RANDOM.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    # The draw runs from -180 to +180 degrees.
    found = made(Rotate(degrees=180.0), [[0.0], [0.25], [0.5], [0.75], [0.25]], square)
    turns = [2, 1, 0, 3, 1]
    expected = np.stack([np.rot90(picture, turn) for picture, turn in zip(square, turns, strict=True)])
    assert np.abs(found.astype(int) - expected).max() <= 1


def bilinear(picture, rows, columns):
    """Values between pixels, in loops; zero outside."""
    height, width = picture.shape[:2]
    result = np.zeros(picture.shape)
    for y in range(height):
        for x in range(width):
            top, left = int(np.floor(rows[y, x])), int(np.floor(columns[y, x]))
            for down in (0, 1):
                for right in (0, 1):
                    i, j = top + down, left + right
                    if 0 <= i < height and 0 <= j < width:
                        share = (1 - abs(rows[y, x] - i)) * (1 - abs(columns[y, x] - j))
                        result[y, x] += share * picture[i, j]
    return result


@pytest.mark.parametrize("draw", [0.0, 0.13, 0.4, 0.77, 0.999])
def test_a_turn_of_any_angle_equals_the_loops(draw):
    pictures = RANDOM.random((1, 5, 7, 2)).astype(np.float32)
    angle = np.deg2rad((2 * draw - 1) * 50.0)
    down, right = np.mgrid[:5, :7] - np.array([2.0, 3.0])[:, None, None]
    rows = np.cos(angle) * down - np.sin(angle) * right + 2.0
    columns = np.sin(angle) * down + np.cos(angle) * right + 3.0
    found = made(Rotate(degrees=50.0), [[draw]], pictures)[0]
    np.testing.assert_allclose(found, bilinear(pictures[0], rows, columns), atol=2e-5)


def test_brightness_adds_a_share_of_white_and_stays_in_range():
    pictures = np.array([0, 100, 250], np.uint8).reshape(1, 1, 3, 1)
    found = [made(Brightness(amount=0.2), [[draw]], pictures).ravel().tolist() for draw in (0.0, 0.5, 0.9999)]
    assert found == [[0, 49, 199], [0, 100, 250], [51, 151, 255]]


def test_brightness_of_floats_is_not_clipped():
    pictures = np.array([0.0, 0.9], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(made(Brightness(amount=0.5), [[0.0]], pictures).ravel(), [-0.5, 0.4], atol=1e-6)
    np.testing.assert_allclose(made(Brightness(amount=0.5), [[0.75]], pictures).ravel(), [0.25, 1.15], atol=1e-6)


def test_contrast_stretches_around_the_mean_of_the_picture():
    pictures = np.array([[100, 110, 120], [0, 0, 255]], np.uint8).reshape(2, 1, 3, 1)
    found = made(Contrast(amount=0.5), [[0.9999999], [0.9999999]], pictures).reshape(2, 3)
    assert found[0].tolist() == [95, 110, 125]
    # Mean 85, factor 1.5: -42.5 and 340 leave the range.
    assert found[1].tolist() == [0, 0, 255]
    flat = made(Contrast(amount=1.0), [[0.0], [0.0]], pictures).reshape(2, 3)
    assert flat.tolist() == [[110] * 3, [85] * 3]


def test_a_cutout_is_a_square_that_is_cut_off_at_the_border():
    found = made(Cutout(size=3), [[0.5, 0.5], [0.0, 0.0], [0.99, 0.99], [0.0, 0.5]])
    expected = PICTURES.copy()
    expected[0, 1:4, 2:5] = expected[1, :2, :2] = expected[2, 3:, 5:] = expected[3, :2, 2:5] = 0
    np.testing.assert_array_equal(found, expected)


def test_an_even_cutout_has_its_size_too():
    found = made(Cutout(size=2), [[0.5, 0.5]] * 4)
    assert [int((picture == 0).all(-1).sum()) for picture in found] == [4] * 4


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
def test_impossible_options_are_refused(kind, options):
    with pytest.raises(ValidationError):
        kind(**options)
