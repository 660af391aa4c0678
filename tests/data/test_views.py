"""Views are pure functions of (seed, view, example)."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.augment import Cutmix, Flip, Shift
from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.errors import UsageError

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(1, 256, (12, 6, 5, 2), dtype=np.uint8)
EVERYTHING = np.arange(12)


def views(*, seed=0, count=None, pixels=2):
    return Views([Shift(pixels=pixels)], seed=seed, count=count, examples=len(PICTURES))


def seen(which, view, positions=EVERYTHING, pictures=PICTURES):
    """Pixels of a view at some positions."""
    table = which.table(view)
    return which.apply({"x": pictures[positions]}, positions, table)["x"].numpy()


def moved(picture, down, right):
    """A picture moved by whole pixels, zero where nothing comes from."""
    result = np.zeros_like(picture)
    height, width = picture.shape[:2]
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[row, column] = picture[row + down, column + right]
    return result


@pytest.mark.parametrize("positions", [[0], [7, 3], [3, 7, 3], list(range(11, -1, -1))])
def test_an_example_looks_the_same_in_every_batch(positions):
    whole = seen(views(), 5)
    np.testing.assert_array_equal(seen(views(), 5, np.array(positions)), whole[positions])


def test_a_shift_equals_the_reference():
    shifts = views(pixels=2)
    down, right = np.floor(shifts.table(3).numpy() * 5).astype(int).T - 2
    expected = np.stack([moved(*each) for each in zip(PICTURES, down, right, strict=True)])
    np.testing.assert_array_equal(seen(shifts, 3), expected)


def test_a_shift_takes_every_move_up_to_its_pixels_and_none_beyond():
    many = np.repeat(PICTURES[:1], 400, axis=0)
    shifts = Views([Shift(pixels=1)], seed=0, count=None, examples=400)
    found = shifts.apply({"x": many}, np.arange(400), shifts.table(0))["x"].numpy()
    known = {moved(PICTURES[0], down, right).tobytes() for down in (-1, 0, 1) for right in (-1, 0, 1)}
    assert {picture.tobytes() for picture in found} == known


def test_another_view_or_seed_gives_other_pixels():
    assert not np.array_equal(seen(views(), 0), seen(views(), 1))
    assert not np.array_equal(seen(views(seed=0), 0), seen(views(seed=1), 0))


def test_examples_of_a_view_are_changed_independently():
    same = np.repeat(PICTURES[:1], 12, axis=0)
    assert len({picture.tobytes() for picture in seen(views(), 0, pictures=same)}) > 3


def test_kept_views_come_in_turn():
    assert [views(count=3).select_view(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_without_a_count_every_epoch_is_a_new_view():
    assert [views(count=None).select_view(epoch) for epoch in range(4)] == [0, 1, 2, 3]


def test_without_augmentation_there_is_one_view_that_changes_nothing():
    plain = Views([], seed=0, count=None, examples=12)
    assert plain.count == 1
    assert {plain.select_view(epoch) for epoch in range(5)} == {0}
    raw = {"x": PICTURES}
    assert plain.apply(raw, EVERYTHING, plain.table(0)) is raw


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
def test_the_type_of_the_pixels_stays(dtype):
    assert seen(views(), 0, pictures=PICTURES.astype(dtype)).dtype == dtype


def test_pictures_without_channels_are_changed_like_those_with_one():
    flat = seen(views(), 2, pictures=PICTURES[..., 0])
    assert flat.shape == (12, 6, 5)
    np.testing.assert_array_equal(flat, seen(views(), 2, pictures=PICTURES[..., :1])[..., 0])


def plain(inputs):
    return Examples("train", {"x": inputs}, None, None, np.arange(len(inputs)))


@pytest.mark.parametrize("shape", [(5,), (2, 6, 5, 2), ()])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(UsageError, match=r"data\.augment: shift needs pictures, the input x has") as caught:
        views().check(plain(np.zeros((2, *shape), np.uint8)))
    assert str(shape) in caught.value.message


def test_pictures_and_plain_data_pass():
    views().check(plain(np.zeros((2, 6, 5, 2), np.float32)))
    views().check(plain(np.zeros((2, 6, 5), np.uint8)))
    Views([], seed=0, count=None, examples=1).check(plain(np.zeros((2, 5))))


def test_a_series_of_numbers_is_no_picture():
    with pytest.raises(UsageError, match="needs pictures"):
        views().check(plain(np.zeros((2, 6, 5), np.float32)))


def test_mixing_needs_inputs_of_one_size():
    sizes = {"left": np.zeros((2, 6, 5, 1), np.uint8), "right": np.zeros((2, 6, 4, 1), np.uint8)}
    mixing = Views([Cutmix()], seed=0, count=None, examples=2)
    with pytest.raises(UsageError, match="mixing needs inputs of one height and width"):
        mixing.check(Examples("train", sizes, None, None, np.arange(2)))
    mixing.check(Examples("train", {"left": sizes["left"]}, None, None, np.arange(2)))


def test_several_inputs_are_mixed_alike():
    mixing = Views([Flip(), Cutmix()], seed=0, count=None, examples=12)
    positions = np.arange(12)
    both = mixing.apply(
        {"a": PICTURES, "b": 255 - PICTURES},
        positions,
        mixing.table(0),
        take=lambda at: {"a": PICTURES[at], "b": 255 - PICTURES[at]},
    )
    np.testing.assert_array_equal(both["a"], 255 - both["b"].numpy())
    assert not np.array_equal(both["a"], PICTURES)
