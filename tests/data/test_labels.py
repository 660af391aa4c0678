"""What labels are taken for, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.arrays import splits_from_arrays
from kdcli.data.labels import checked, find_labelling
from kdcli.errors import DataError

ONE_HOT = np.eye(3)[[2, 0, 1, 1]]
MANY = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]])


def split(labels, x=None, *, part="train"):
    x = np.zeros((len(labels), 4, 4, 1), np.uint8) if x is None else x
    splits = splits_from_arrays({"x_train": x, "y_train": labels, "x_test": x, "y_test": labels}, name="given")
    return getattr(splits, part)


def found(labels, *, task="auto", classes=None, x=None):
    return find_labelling(split(labels, x), task=task, classes=classes, name="given")


def ready(labels, *, task="auto", classes=None, x=None):
    """The labels as losses get them."""
    examples = split(labels, x)
    labelling = find_labelling(examples, task=task, classes=classes, name="given")
    return checked(examples, labelling, name="given").labels


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "bool"])
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
        checked(split(wrong, part="test"), labelling, name="given")
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
    labelling = find_labelling(examples, task="auto", classes=None, name="given")
    with pytest.raises(DataError, match=r"x_train\.right holds NaN or infinity in examples 1"):
        checked(examples, labelling, name="given")


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
    assert find_labelling(examples, task="auto", classes=4, name="given").outputs == 4
    assert find_labelling(examples, task="auto", classes=None, name="given").outputs == 0
