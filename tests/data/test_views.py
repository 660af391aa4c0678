"""Views as pure functions of (seed, view, example)."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.augment import Cutmix, Flip, Shift
from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.errors import UsageError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(1, 256, (12, 6, 5, 2), dtype=np.uint8)
EVERYTHING = np.arange(12)


def views(*, seed=0, count=None, pixels=2):
    return Views([Shift(pixels=pixels)], seed=seed, count=count, examples=len(IMAGES))


def seen(which, view, positions=EVERYTHING, images=IMAGES):
    """Pixels of a view at some positions."""
    table = which.table(view)
    return which.apply({"x": images[positions]}, positions, table)["x"].numpy()


def moved(image, down, right):
    """A image moved by whole pixels, zero where nothing comes from."""
    result = np.zeros_like(image)
    height, width = image.shape[:2]
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[row, column] = image[row + down, column + right]
    return result


@pytest.mark.parametrize("positions", [[0], [7, 3], [3, 7, 3], list(range(11, -1, -1))])
def test_view_of_an_example_does_not_depend_on_the_batch(positions):
    whole = seen(views(), 5)
    np.testing.assert_array_equal(seen(views(), 5, np.array(positions)), whole[positions])


def test_shift_equals_the_reference():
    shifts = views(pixels=2)
    down, right = np.floor(shifts.table(3).numpy() * 5).astype(int).T - 2
    expected = np.stack([moved(*each) for each in zip(IMAGES, down, right, strict=True)])
    np.testing.assert_array_equal(seen(shifts, 3), expected)


def test_shift_covers_all_moves_up_to_its_limit():
    many = np.repeat(IMAGES[:1], 400, axis=0)
    shifts = Views([Shift(pixels=1)], seed=0, count=None, examples=400)
    found = shifts.apply({"x": many}, np.arange(400), shifts.table(0))["x"].numpy()
    known = {moved(IMAGES[0], down, right).tobytes() for down in (-1, 0, 1) for right in (-1, 0, 1)}
    assert {image.tobytes() for image in found} == known


def test_view_depends_on_view_number_and_seed():
    assert not np.array_equal(seen(views(), 0), seen(views(), 1))
    assert not np.array_equal(seen(views(seed=0), 0), seen(views(seed=1), 0))


def test_examples_of_a_view_are_changed_independently():
    same = np.repeat(IMAGES[:1], 12, axis=0)
    assert len({image.tobytes() for image in seen(views(), 0, images=same)}) > 3


def test_epochs_cycle_through_cached_views():
    assert [views(count=3).select_view(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_every_epoch_has_a_new_view_without_a_count():
    assert [views(count=None).select_view(epoch) for epoch in range(4)] == [0, 1, 2, 3]


def test_identity_view_without_augmentation():
    plain = Views([], seed=0, count=None, examples=12)
    assert plain.count == 1
    assert {plain.select_view(epoch) for epoch in range(5)} == {0}
    raw = {"x": IMAGES}
    assert plain.apply(raw, EVERYTHING, plain.table(0)) is raw


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
def test_pixel_type_does_not_change(dtype):
    assert seen(views(), 0, images=IMAGES.astype(dtype)).dtype == dtype


def test_images_without_channel_axis_are_augmented():
    flat = seen(views(), 2, images=IMAGES[..., 0])
    assert flat.shape == (12, 6, 5)
    np.testing.assert_array_equal(flat, seen(views(), 2, images=IMAGES[..., :1])[..., 0])


def plain(inputs):
    return Examples("train", {"x": inputs}, None, None, np.arange(len(inputs)))


@pytest.mark.parametrize("shape", [(5,), (2, 6, 5, 2), ()])
def test_inputs_that_are_not_images_are_refused(shape):
    with pytest.raises(UsageError, match=r"data\.augment: shift requires images; input x has") as caught:
        views().check(plain(np.zeros((2, *shape), np.uint8)))
    assert str(shape) in caught.value.message


def test_images_and_unaugmented_data_are_accepted():
    views().check(plain(np.zeros((2, 6, 5, 2), np.float32)))
    views().check(plain(np.zeros((2, 6, 5), np.uint8)))
    Views([], seed=0, count=None, examples=1).check(plain(np.zeros((2, 5))))


def test_series_of_floats_is_not_an_image():
    with pytest.raises(UsageError, match="requires images"):
        views().check(plain(np.zeros((2, 6, 5), np.float32)))


def test_mixing_requires_inputs_of_equal_size():
    sizes = {"left": np.zeros((2, 6, 5, 1), np.uint8), "right": np.zeros((2, 6, 4, 1), np.uint8)}
    mixing = Views([Cutmix()], seed=0, count=None, examples=2)
    with pytest.raises(UsageError, match="mixing requires inputs of equal height and width"):
        mixing.check(Examples("train", sizes, None, None, np.arange(2)))
    mixing.check(Examples("train", {"left": sizes["left"]}, None, None, np.arange(2)))


def test_several_inputs_are_mixed_equally():
    mixing = Views([Flip(), Cutmix()], seed=0, count=None, examples=12)
    positions = np.arange(12)
    both = mixing.apply(
        {"a": IMAGES, "b": 255 - IMAGES},
        positions,
        mixing.table(0),
        take=lambda at: {"a": IMAGES[at], "b": 255 - IMAGES[at]},
    )
    np.testing.assert_array_equal(both["a"], 255 - both["b"].numpy())
    assert not np.array_equal(both["a"], IMAGES)
