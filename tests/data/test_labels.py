"""What labels are taken for, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.arrays import splits_from_arrays
from kdcli.data.classes import Classes
from kdcli.data.labels import VOID_LABEL, encode_labels, infer_labelling
from kdcli.errors import DataError

ONE_HOT = np.eye(3)[[2, 0, 1, 1]]
MANY = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]])


def split(labels, x=None, *, part="train"):
    x = np.zeros((len(labels), 4, 4, 1), np.uint8) if x is None else x
    splits = splits_from_arrays({"x_train": x, "y_train": labels, "x_test": x, "y_test": labels}, name="given")
    return getattr(splits, part)


def found(labels, *, task="auto", classes=None, x=None, **more):
    return infer_labelling(split(labels, x), task=task, classes=classes, name="given", **more)


def ready(labels, *, task="auto", classes=None, x=None, **more):
    """The labels as losses get them."""
    examples = split(labels, x)
    labelling = infer_labelling(examples, task=task, classes=classes, name="given", **more)
    return encode_labels(examples, labelling, name="given").labels


def refused(labels, **more):
    with pytest.raises(DataError) as caught:
        ready(labels, **more)
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint64", "float16", "float32", "bool"])
def test_whole_numbers_of_any_type_are_classes(dtype):
    labels = np.array([1, 0, 1, 1]).astype(dtype)
    labelling = found(labels)
    assert (labelling.task, labelling.outputs) == ("classification", 2)
    assert ready(labels).dtype == np.int64
    assert ready(labels).tolist() == [1, 0, 1, 1]


def test_one_column_of_classes_becomes_a_vector():
    labels = np.array([[2], [0], [1], [2]])
    assert found(labels).outputs == 3
    assert ready(labels).tolist() == [2, 0, 1, 2]


def test_one_hot_rows_become_classes():
    labelling = found(ONE_HOT)
    assert (labelling.task, labelling.outputs) == ("classification", 3)
    assert ready(ONE_HOT).tolist() == [2, 0, 1, 1]


def test_one_hot_rows_of_another_width_than_the_class_names_are_refused():
    with pytest.raises(DataError, match="3"):
        ready(ONE_HOT, classes=2)


def test_named_classes_count_more_than_those_seen():
    labelling = found(np.array([0, 1, 0, 1]), classes=5)
    assert labelling.outputs == 5


def test_a_matrix_of_zeros_and_ones_is_multilabel():
    labelling = found(MANY)
    assert (labelling.task, labelling.outputs) == ("multilabel", 3)
    assert ready(MANY).dtype == np.float32
    assert ready(MANY).tolist() == MANY.tolist()


def test_other_values_are_refused_for_a_multilabel_task():
    with pytest.raises(DataError, match="y_train must be 0 or 1 for a multilabel task"):
        ready(MANY * 2, task="multilabel")


def test_maps_of_the_pictures_size_are_segmentation():
    labels = np.arange(64).reshape(4, 4, 4) % 3
    labelling = found(labels)
    assert (labelling.task, labelling.outputs) == ("segmentation", 3)
    assert ready(labels).shape == (4, 4, 4)


def test_maps_with_a_last_axis_of_one_become_maps():
    labels = np.arange(64).reshape(4, 4, 4, 1) % 3
    assert found(labels).task == "segmentation"
    assert ready(labels).shape == (4, 4, 4)


def test_several_fractions_an_example_are_regression():
    labels = np.array([[0.5, 2], [1, 1], [0, 3], [2, 2]])
    labelling = found(labels)
    assert (labelling.task, labelling.outputs) == ("regression", 2)
    assert ready(labels).dtype == np.float32


def test_one_value_an_example_is_a_column_for_regression():
    assert ready(np.array([0.5, 1.5, -2.0, 0.0]), task="regression").tolist() == [[0.5], [1.5], [-2.0], [0.0]]


def test_fractions_are_refused_as_classes_with_the_way_to_regression():
    with pytest.raises(DataError) as caught:
        found(np.array([0.0, 0.5, 1.0, 2.5]))
    assert caught.value.message == "given: y_train has 2 labels that are not whole numbers (at 1, 3)"
    assert "--set data.task=regression" in caught.value.hint


def test_negative_labels_are_refused_with_their_positions():
    with pytest.raises(DataError, match=r"y_train has 2 labels below 0 \(values -2; at 0, 2\)"):
        found(np.array([-2, 0, -2, 1]))


def test_labels_out_of_range_in_another_split_are_refused_with_values_and_positions():
    labelling = found(np.array([0, 1, 2, 0]))
    wrong = np.array([0, 7, 2, 3, 7, 7, 7, 9, 9])
    with pytest.raises(DataError) as caught:
        encode_labels(split(wrong, part="test"), labelling, name="given")
    assert caught.value.message == (
        "given: y_test has 7 labels outside 0..2 (values 3, 7, 9; at 1, 3, 4, 5, 6 and 2 more)"
    )


@pytest.mark.parametrize("task", ["auto", "regression"])
def test_labels_that_are_not_finite_are_refused_with_their_positions(task):
    labels = np.array([0.0, np.nan, 1.0, np.inf])
    with pytest.raises(DataError, match=r"y_train has 2 labels that are NaN or infinite \(at 1, 3\)"):
        ready(labels, task=task)


def test_inputs_that_are_not_finite_are_refused_by_array_and_position():
    x = np.zeros((8, 3), np.float32)
    x[1:8, 2] = np.nan
    with pytest.raises(DataError, match="x_train holds NaN or infinity in examples 1, 2, 3, 4, 5 and 2 more"):
        ready(np.arange(8), x=x)


def test_one_of_several_inputs_that_is_not_finite_is_called_as_in_the_file():
    arrays = {"x_train.left": np.zeros((2, 3)), "x_train.right": np.array([[0.0], [np.inf]])}
    examples = splits_from_arrays({**arrays, "y_train": np.arange(2)}, name="given").train
    labelling = infer_labelling(examples, task="auto", classes=None, name="given")
    with pytest.raises(DataError, match=r"x_train\.right holds NaN or infinity in examples 1"):
        encode_labels(examples, labelling, name="given")


def test_several_whole_numbers_an_example_are_refused_with_the_tasks_that_take_them():
    with pytest.raises(DataError, match=r"has shape \(4, 2\); a class needs one number an example") as caught:
        found(np.array([[0, 3], [1, 1], [2, 0], [1, 2]]))
    assert "data.task=multilabel" in caught.value.hint


def test_maps_that_fit_no_picture_are_refused_as_classes():
    with pytest.raises(DataError, match=r"has shape \(4, 3, 2\)"):
        ready(np.zeros((4, 3, 2), int))


def test_one_number_an_example_is_refused_for_segmentation():
    with pytest.raises(DataError, match=r"segmentation"):
        ready(np.array([0, 1, 2, 0]), task="segmentation")


def test_unlabelled_data_leaves_the_number_of_classes_to_names_or_the_teacher():
    examples = splits_from_arrays({"x": np.zeros((4, 2))}, name="given").train
    assert infer_labelling(examples, task="auto", classes=4, name="given").outputs == 4
    assert infer_labelling(examples, task="auto", classes=None, name="given").outputs == 0


def chances(rows=200, classes=5, *, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), rows)


@pytest.mark.parametrize(
    "rows",
    [
        np.eye(10)[np.arange(40) % 10] * 0.9 + 0.01,
        chances(),
        chances(50, 1000).astype(np.float16),
        np.round(chances(), 2),
        np.stack([np.linspace(0, 1, 40), 1 - np.linspace(0, 1, 40)], axis=1),
    ],
    ids=["smoothed", "any", "half precision", "two digits", "two columns"],
)
def test_rows_that_sum_to_one_are_soft_labels(rows):
    examples = split(rows)
    labelling = found(rows)
    soft = encode_labels(examples, labelling, name="given")
    assert (labelling.task, labelling.outputs, labelling.soft) == ("classification", rows.shape[1], True)
    np.testing.assert_array_equal(soft.labels, rows.argmax(1))
    np.testing.assert_allclose(soft.soft_labels.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(soft.soft_labels, rows, atol=0.03)
    assert f"rows of {rows.shape[1]} fractions that sum to 1: soft labels" in labelling.notes[0]


def test_soft_labels_without_a_largest_are_counted():
    assert "4 have no single largest" in found(np.full((4, 2), 0.5)).notes[0]


def test_one_hot_rows_need_no_soft_labels_and_soft_rows_of_another_split_are_their_largest():
    labelling = found(ONE_HOT)
    other = encode_labels(split(ONE_HOT * 0.8 + 0.2 / 3, part="test"), labelling, name="given")
    assert not labelling.soft
    assert other.soft_labels is None
    assert other.labels.tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_a_row_of_another_sum_among_soft_labels_is_refused(task):
    rows = chances()
    rows[7] *= 0.5
    error = refused(rows, task=task)
    assert "1 of 200 rows have another sum than 1 (0.5; at 7)" in error.message
    assert "--set data.task=regression" in error.hint


def test_fractions_of_any_sum_are_values():
    labelling = found(np.random.default_rng(0).random((200, 4)))
    assert (labelling.task, labelling.outputs, labelling.soft) == ("regression", 4, False)


def test_one_hot_training_rows_do_not_hide_several_classes_in_another_split():
    with pytest.raises(DataError, match=r"y_test has shape \(4, 3\)") as caught:
        encode_labels(split(MANY, part="test"), found(ONE_HOT), name="given")
    assert "--set data.task=multilabel" in caught.value.hint


PICTURES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
ROWS, COLUMNS = np.mgrid[:16, :16]
DISCS = np.stack([(ROWS - 8) ** 2 + (COLUMNS - at % 16) ** 2 < 20 for at in range(40)])


@pytest.mark.parametrize(
    "masks",
    [
        DISCS,
        DISCS.astype(np.float32),
        DISCS[..., None] * np.uint8(255),
        DISCS * 255.0,
        np.eye(2)[DISCS.astype(int)],
    ],
    ids=["bool", "float", "255 with a channel", "255 as float", "one-hot"],
)
def test_masks_of_two_values_are_two_classes(masks):
    assert (found(masks, x=PICTURES).task, found(masks, x=PICTURES).outputs) == ("segmentation", 2)
    np.testing.assert_array_equal(ready(masks, x=PICTURES), DISCS)


@pytest.mark.parametrize("void", [255, -1])
def test_void_pixels_are_refused_until_they_are_named(void):
    masks = DISCS.astype(int) + (ROWS > 8)
    masks[:, 0] = void
    error = refused(masks, x=PICTURES)
    assert f"--set data.ignore={void}" in error.hint
    labels = ready(masks, x=PICTURES, ignore=void)
    assert found(masks, x=PICTURES, ignore=void).outputs == 3
    np.testing.assert_array_equal(labels, np.where(masks == void, VOID_LABEL, masks))


def test_ignore_is_for_maps():
    assert "data.ignore is for maps" in refused(np.arange(4) % 2, ignore=255).message


def test_masks_of_void_alone_are_refused():
    error = refused(np.full((40, 16, 16), 255), x=PICTURES, ignore=255)
    assert error.message == "given: y_train holds nothing but 255, the label that data.ignore leaves out"


def test_soft_masks_keep_the_row_of_each_pixel():
    rows = chances(40 * 256, 3).reshape(40, 16, 16, 3)
    soft = encode_labels(split(rows, PICTURES), found(rows, x=PICTURES), name="given")
    np.testing.assert_allclose(soft.soft_labels, rows, atol=1e-6)
    np.testing.assert_array_equal(soft.labels, rows.argmax(-1))


def test_several_classes_in_one_pixel_are_refused():
    both = np.stack([DISCS, np.ones_like(DISCS)], axis=-1).astype(np.uint8)
    assert "a pixel has one class" in refused(both, x=PICTURES).message


def test_masks_of_colours_are_refused():
    colours = np.array([[0, 0, 0], [128, 0, 0]], np.uint8)[DISCS.astype(int)]
    assert "store the number of the class instead of its colour" in refused(colours, x=PICTURES).hint


@pytest.mark.parametrize(
    ("scale", "wanted"),
    [("auto", PICTURES / 255.0), ("signed", PICTURES / 127.5 - 1), ("raw", PICTURES)],
)
def test_images_as_targets_are_values(scale, wanted):
    labelling = found(PICTURES, x=PICTURES, scale=scale)
    assert (labelling.task, labelling.outputs) == ("regression", 3)
    np.testing.assert_allclose(ready(PICTURES, x=PICTURES, scale=scale), wanted, atol=1e-5)


def test_grey_images_as_targets_are_no_masks():
    grey = PICTURES[..., :1]
    assert found(grey, x=grey).task == "regression"
    assert found(grey[..., 0], x=grey).task == "regression"
    assert ready(grey[..., 0], x=grey).shape == (40, 16, 16, 1)


def test_maps_of_fractions_are_values_with_one_channel():
    depth = np.random.default_rng(0).random((40, 16, 16)) * 10
    assert found(depth, x=PICTURES).task == "regression"
    np.testing.assert_allclose(ready(depth, x=PICTURES), depth[..., None], rtol=1e-6)


def test_a_scale_of_targets_is_refused_where_there_are_classes():
    assert "data.target_scale is for values" in refused(np.arange(4) % 2, scale="unit").message


def test_maps_are_refused_for_a_multilabel_task():
    assert "(40, 16, 16)" in refused(DISCS, x=PICTURES, task="multilabel").message


def test_labels_go_to_the_outputs_that_their_values_name():
    labels = np.array([3, 1, 2, 3])
    named = Classes(("1", "2", "3"), 3, (1, 2, 3))
    assert ready(labels, classes=named).tolist() == [2, 0, 1, 2]
    with pytest.raises(DataError, match=r"1 labels outside the classes 1, 2, 3 \(values 7; at 0\)"):
        encode_labels(split(np.array([7, 1, 2, 3]), part="test"), found(labels, classes=named), name="given")
