"""Inferring, checking and encoding labels."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.classes import Classes
from kdcli.data.labels import VOID_LABEL, encode_labels, infer_labelling
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.errors import DataError

ONE_HOT = np.eye(3)[[2, 0, 1, 1]]
MANY = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]])


def split(labels, x=None, *, part="train"):
    x = np.zeros((len(labels), 4, 4, 1), np.uint8) if x is None else x
    splits = splits_from_arrays({"x_train": x, "y_train": labels, "x_test": x, "y_test": labels}, name="given")
    return getattr(splits, part)


def infer(labels, *, task="auto", classes=None, x=None, **more):
    return infer_labelling(split(labels, x), task=task, classes=classes, name="given", **more)


def encode(labels, *, task="auto", classes=None, x=None, **more):
    """Encode labels for losses."""
    examples = split(labels, x)
    labelling = infer_labelling(examples, task=task, classes=classes, name="given", **more)
    return encode_labels(examples, labelling, name="given").labels


def refused(labels, **more):
    with pytest.raises(DataError) as caught:
        encode(labels, **more)
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint64", "float16", "float32", "bool"])
def test_integers_of_any_type_are_classes(dtype):
    labels = np.array([1, 0, 1, 1]).astype(dtype)
    labelling = infer(labels)
    assert (labelling.task, labelling.outputs) == ("classification", 2)
    assert encode(labels).dtype == np.int64
    assert encode(labels).tolist() == [1, 0, 1, 1]


def test_one_column_of_classes_becomes_a_vector():
    labels = np.array([[2], [0], [1], [2]])
    assert infer(labels).outputs == 3
    assert encode(labels).tolist() == [2, 0, 1, 2]


def test_one_hot_rows_become_classes():
    labelling = infer(ONE_HOT)
    assert (labelling.task, labelling.outputs) == ("classification", 3)
    assert encode(ONE_HOT).tolist() == [2, 0, 1, 1]


def test_one_hot_rows_must_match_the_class_names():
    with pytest.raises(DataError, match="y_train has 3 columns, expected 2 classes"):
        encode(ONE_HOT, classes=2)


def test_number_of_class_names_overrides_the_labels():
    labelling = infer(np.array([0, 1, 0, 1]), classes=5)
    assert labelling.outputs == 5


def test_matrix_of_zeros_and_ones_is_multilabel():
    labelling = infer(MANY)
    assert (labelling.task, labelling.outputs) == ("multilabel", 3)
    assert encode(MANY).dtype == np.float32
    assert encode(MANY).tolist() == MANY.tolist()


def test_multilabel_task_refuses_other_values():
    with pytest.raises(DataError, match="y_train must be 0 or 1 for a multilabel task"):
        encode(MANY * 2, task="multilabel")


def test_maps_of_image_size_are_segmentation():
    labels = np.arange(64).reshape(4, 4, 4) % 3
    labelling = infer(labels)
    assert (labelling.task, labelling.outputs) == ("segmentation", 3)
    assert encode(labels).shape == (4, 4, 4)


def test_maps_with_a_channel_axis_lose_it():
    labels = np.arange(64).reshape(4, 4, 4, 1) % 3
    assert infer(labels).task == "segmentation"
    assert encode(labels).shape == (4, 4, 4)


def test_rows_of_fractions_are_regression():
    labels = np.array([[0.5, 2], [1, 1], [0, 3], [2, 2]])
    labelling = infer(labels)
    assert (labelling.task, labelling.outputs) == ("regression", 2)
    assert encode(labels).dtype == np.float32


def test_regression_values_become_a_column():
    assert encode(np.array([0.5, 1.5, -2.0, 0.0]), task="regression").tolist() == [[0.5], [1.5], [-2.0], [0.0]]


def test_fractions_as_classes_are_refused_with_a_regression_hint():
    with pytest.raises(DataError) as caught:
        infer(np.array([0.0, 0.5, 1.0, 2.5]))
    assert caught.value.message == "given: y_train has 2 labels that are not whole numbers (at 1, 3)"
    assert "--set data.task=regression" in caught.value.hint


def test_negative_labels_are_refused_with_positions():
    with pytest.raises(DataError, match=r"y_train has 2 labels below 0 \(values -2; at 0, 2\)"):
        infer(np.array([-2, 0, -2, 1]))


def test_labels_out_of_range_in_another_split_are_refused():
    labelling = infer(np.array([0, 1, 2, 0]))
    wrong = np.array([0, 7, 2, 3, 7, 7, 7, 9, 9])
    with pytest.raises(DataError) as caught:
        encode_labels(split(wrong, part="test"), labelling, name="given")
    assert caught.value.message == (
        "given: y_test has 7 labels outside 0..2 (values 3, 7, 9; at 1, 3, 4, 5, 6 and 2 more)"
    )


@pytest.mark.parametrize("task", ["auto", "regression"])
def test_labels_that_are_not_finite_are_refused_with_positions(task):
    labels = np.array([0.0, np.nan, 1.0, np.inf])
    with pytest.raises(DataError, match=r"y_train has 2 labels that are NaN or infinite \(at 1, 3\)"):
        encode(labels, task=task)


def test_inputs_that_are_not_finite_are_refused_with_positions():
    x = np.zeros((8, 3), np.float32)
    x[1:8, 2] = np.nan
    with pytest.raises(DataError, match="x_train contains NaN or infinity in examples 1, 2, 3, 4, 5 and 2 more"):
        encode(np.arange(8), x=x)


def test_input_that_is_not_finite_has_its_name_in_the_file():
    arrays = {"x_train.left": np.zeros((2, 3)), "x_train.right": np.array([[0.0], [np.inf]])}
    examples = splits_from_arrays({**arrays, "y_train": np.arange(2)}, name="given").train
    labelling = infer_labelling(examples, task="auto", classes=None, name="given")
    with pytest.raises(DataError, match=r"x_train\.right contains NaN or infinity in examples 1"):
        encode_labels(examples, labelling, name="given")


def test_rows_of_integers_are_refused_with_suitable_tasks():
    with pytest.raises(DataError, match=r"has shape \(4, 2\); a class needs one number per example") as caught:
        infer(np.array([[0, 3], [1, 1], [2, 0], [1, 2]]))
    assert "data.task=multilabel" in caught.value.hint


def test_maps_that_do_not_fit_images_are_refused():
    with pytest.raises(DataError, match=r"has shape \(4, 3, 2\)"):
        encode(np.zeros((4, 3, 2), int))


def test_segmentation_refuses_one_label_per_example():
    with pytest.raises(DataError, match="segmentation needs one class per pixel"):
        encode(np.array([0, 1, 2, 0]), task="segmentation")


def test_unlabelled_data_takes_outputs_from_names():
    examples = splits_from_arrays({"x": np.zeros((4, 2))}, name="given").train
    assert infer_labelling(examples, task="auto", classes=4, name="given").outputs == 4
    assert infer_labelling(examples, task="auto", classes=None, name="given").outputs == 0


def probabilities(rows=200, classes=5, *, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), rows)


@pytest.mark.parametrize(
    "rows",
    [
        np.eye(10)[np.arange(40) % 10] * 0.9 + 0.01,
        probabilities(),
        probabilities(50, 1000).astype(np.float16),
        np.round(probabilities(), 2),
        np.stack([np.linspace(0, 1, 40), 1 - np.linspace(0, 1, 40)], axis=1),
    ],
    ids=["smoothed", "any", "half precision", "two digits", "two columns"],
)
def test_rows_that_sum_to_one_are_soft_labels(rows):
    examples = split(rows)
    labelling = infer(rows)
    soft = encode_labels(examples, labelling, name="given")
    assert (labelling.task, labelling.outputs, labelling.soft) == ("classification", rows.shape[1], True)
    np.testing.assert_array_equal(soft.labels, rows.argmax(1))
    np.testing.assert_allclose(soft.soft_labels.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(soft.soft_labels, rows, atol=0.03)
    assert f"rows of {rows.shape[1]} fractions that sum to 1: soft labels" in labelling.notes[0]


def test_soft_labels_with_ties_are_counted():
    assert "4 rows have no single largest entry" in infer(np.full((4, 2), 0.5)).notes[0]


def test_one_hot_training_labels_turn_soft_rows_of_other_splits_into_classes():
    labelling = infer(ONE_HOT)
    other = encode_labels(split(ONE_HOT * 0.8 + 0.2 / 3, part="test"), labelling, name="given")
    assert not labelling.soft
    assert other.soft_labels is None
    assert other.labels.tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_soft_label_row_with_another_sum_is_refused(task):
    rows = probabilities()
    rows[7] *= 0.5
    error = refused(rows, task=task)
    assert "1 of 200 rows do not sum to 1 (sum 0.5; at 7)" in error.message
    assert "--set data.task=regression" in error.hint


def test_fractions_with_arbitrary_sums_are_values():
    labelling = infer(np.random.default_rng(0).random((200, 4)))
    assert (labelling.task, labelling.outputs, labelling.soft) == ("regression", 4, False)


def test_multilabel_rows_in_another_split_are_refused():
    with pytest.raises(DataError, match=r"y_test has shape \(4, 3\)") as caught:
        encode_labels(split(MANY, part="test"), infer(ONE_HOT), name="given")
    assert "--set data.task=multilabel" in caught.value.hint


IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
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
    assert (infer(masks, x=IMAGES).task, infer(masks, x=IMAGES).outputs) == ("segmentation", 2)
    np.testing.assert_array_equal(encode(masks, x=IMAGES), DISCS)


@pytest.mark.parametrize("void", [255, -1])
def test_void_pixels_require_data_ignore(void):
    masks = DISCS.astype(int) + (ROWS > 8)
    masks[:, 0] = void
    error = refused(masks, x=IMAGES)
    assert f"--set data.ignore={void}" in error.hint
    labels = encode(masks, x=IMAGES, ignore=void)
    assert infer(masks, x=IMAGES, ignore=void).outputs == 3
    np.testing.assert_array_equal(labels, np.where(masks == void, VOID_LABEL, masks))


def test_ignore_requires_maps():
    assert "data.ignore requires maps" in refused(np.arange(4) % 2, ignore=255).message


def test_masks_with_only_void_pixels_are_refused():
    error = refused(np.full((40, 16, 16), 255), x=IMAGES, ignore=255)
    assert error.message == "given: y_train contains only the label 255, which data.ignore excludes"


def test_soft_masks_keep_one_row_per_pixel():
    rows = probabilities(40 * 256, 3).reshape(40, 16, 16, 3)
    soft = encode_labels(split(rows, IMAGES), infer(rows, x=IMAGES), name="given")
    np.testing.assert_allclose(soft.soft_labels, rows, atol=1e-6)
    np.testing.assert_array_equal(soft.labels, rows.argmax(-1))


def test_several_classes_per_pixel_are_refused():
    both = np.stack([DISCS, np.ones_like(DISCS)], axis=-1).astype(np.uint8)
    assert "a pixel has one class" in refused(both, x=IMAGES).message


def test_masks_that_store_colours_are_refused():
    colours = np.array([[0, 0, 0], [128, 0, 0]], np.uint8)[DISCS.astype(int)]
    assert "store class numbers instead of colours" in refused(colours, x=IMAGES).hint


@pytest.mark.parametrize(
    ("scale", "expected"),
    [("auto", IMAGES / 255.0), ("signed", IMAGES / 127.5 - 1), ("raw", IMAGES)],
)
def test_images_as_targets_are_values(scale, expected):
    labelling = infer(IMAGES, x=IMAGES, scale=scale)
    assert (labelling.task, labelling.outputs) == ("regression", 3)
    np.testing.assert_allclose(encode(IMAGES, x=IMAGES, scale=scale), expected, atol=1e-5)


def test_grey_target_images_are_not_masks():
    grey = IMAGES[..., :1]
    assert infer(grey, x=grey).task == "regression"
    assert infer(grey[..., 0], x=grey).task == "regression"
    assert encode(grey[..., 0], x=grey).shape == (40, 16, 16, 1)


def test_maps_of_fractions_are_values_with_one_channel():
    depth = np.random.default_rng(0).random((40, 16, 16)) * 10
    assert infer(depth, x=IMAGES).task == "regression"
    np.testing.assert_allclose(encode(depth, x=IMAGES), depth[..., None], rtol=1e-6)


def test_target_scale_is_refused_for_classes():
    assert "data.target_scale requires regression targets" in refused(np.arange(4) % 2, scale="unit").message


def test_multilabel_task_refuses_maps():
    assert "(40, 16, 16)" in refused(DISCS, x=IMAGES, task="multilabel").message


def test_labels_are_mapped_to_outputs_by_value():
    labels = np.array([3, 1, 2, 3])
    named = Classes(names=("1", "2", "3"), count=3, values=(1, 2, 3))
    assert encode(labels, classes=named).tolist() == [2, 0, 1, 2]
    with pytest.raises(DataError, match=r"1 labels outside the classes 1, 2, 3 \(values 7; at 0\)"):
        encode_labels(split(np.array([7, 1, 2, 3]), part="test"), infer(labels, classes=named), name="given")
