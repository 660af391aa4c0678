"""Splits from named arrays."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import save_npz

from kdcli.data.named_arrays import read_npz, splits_from_arrays
from kdcli.errors import DataError


def arrays(count=6, **more):
    return {"x": np.zeros((count, 2)), "y": np.arange(count) % 3, **more}


def refused(values):
    with pytest.raises(DataError) as caught:
        splits_from_arrays(values, name="given")
    assert caught.value.exit_code == 3
    return caught.value


def test_keras_layout_gives_train_and_test_splits(tmp_path):
    splits = read_npz(save_npz(tmp_path / "d.npz", examples=12), name="d")
    assert (len(splits.train), splits.validation, len(splits.test)) == (12, None, 6)
    assert splits.train.shapes == {"x": (8, 8, 1)}
    assert splits.train.split == "train"
    assert splits.test.split == "test"
    assert splits.train.all_labels().tolist() == [0, 1, 2] * 4


def test_x_and_y_become_the_training_split():
    splits = splits_from_arrays(arrays(), name="d")
    assert len(splits.train) == 6
    assert splits.test is None
    assert splits.train.labels_at(np.array([4, 1])).tolist() == [1, 1]


def test_validation_arrays_become_the_validation_split():
    more = {"x_train": np.zeros((4, 2)), "x_validation": np.ones((3, 2)), "y_validation": np.arange(3)}
    splits = splits_from_arrays(more, name="d")
    assert len(splits.validation) == 3
    assert splits.validation.labels.tolist() == [0, 1, 2]
    assert splits.train.labels is None


@pytest.mark.parametrize("layout", ["weight", "weight_train"])
def test_sample_weights_are_read_as_float32(layout):
    values = arrays(3, **{layout: np.array([1, 0, 2])})
    if layout == "weight_train":
        values = {"x_train": values["x"], "y_train": values["y"], "weight_train": values[layout]}
    weights = splits_from_arrays(values, name="d").train.weights
    assert weights.dtype == np.float32
    assert weights.tolist() == [1, 0, 2]


@pytest.mark.parametrize("prefix", ["x_train", "x"])
def test_several_inputs_keep_their_names(prefix):
    values = {f"{prefix}.left": np.zeros((4, 2)), f"{prefix}.right": np.ones((4, 3, 1)), "y": np.arange(4)}
    if prefix == "x_train":
        values["y_train"] = values.pop("y")
    train = splits_from_arrays(values, name="d").train
    assert train.shapes == {"left": (2,), "right": (3, 1)}
    assert train.take(np.array([1]))["right"].tolist() == [[[1.0], [1.0], [1.0]]]


TRAINING = ("x_train", "y_train")
BOTH = (*TRAINING, "x_test", "y_test")


@pytest.mark.parametrize(
    ("names", "standard"),
    [
        (("X", "y"), TRAINING),
        (("X", "Y", "sample_weight"), (*TRAINING, "weight_train")),
        (("images", "labels"), TRAINING),
        (("data", "target"), TRAINING),
        (("features", "label"), TRAINING),
        (("Inputs", "Targets"), TRAINING),
        (("X_train", "Y_train", "X_test", "Y_test"), BOTH),
        (("train_images", "train_labels", "test_images", "test_labels"), BOTH),
        (("images_train", "labels_train", "imagesTest", "labelsTest"), BOTH),
        (("trainX", "trainY", "testX", "testY"), BOTH),
        (("Xtrain", "ytrain", "Xtest", "ytest"), BOTH),
        (("train_x", "train_y", "test-x", "test-y"), BOTH),
        (("train_set_x", "train_set_y", "test_set_x", "test_set_y"), BOTH),
        (("train_data", "train_labels", "X_testing", "y_testing"), BOTH),
        (("x_train", "y_train", "X_val", "y_val"), (*TRAINING, "x_validation", "y_validation")),
        (("x_train", "y_train", "dev_x", "dev_y"), (*TRAINING, "x_validation", "y_validation")),
        (("X_train.left", "X_train.right", "y_train"), ("x_train.left", "x_train.right", "y_train")),
    ],
)
def test_common_array_names_are_recognized(names, standard):
    values = {one: np.arange(6.0) + place for place, one in enumerate(names)}
    found = splits_from_arrays(values, name="d")
    expected = splits_from_arrays(dict(zip(standard, values.values(), strict=True)), name="d")
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(found, split), getattr(expected, split)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert {key: array.tolist() for key, array in ours.inputs.items()} == {
                key: array.tolist() for key, array in theirs.inputs.items()
            }
            for part in ("labels", "weights"):
                np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
    renamed = [name for name in names if name.lower() not in (*standard, *(one.split("_")[0] for one in standard))]
    assert bool(renamed) == bool(found.notes)
    assert all(name in found.notes[0] for name in renamed)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("images", "data", "target"), "given: images and data both match x; arrays: images, data, target"),
        (("X_train", "train_images", "y_train"), "given: X_train and train_images both match x_train; arrays: "),
        (("x", "y", "labels"), "given: y and labels both match y; arrays: x, y, labels"),
    ],
)
def test_names_that_match_the_same_array_are_refused(names, message):
    assert refused({name: np.zeros(3) for name in names}).message.startswith(message)


@pytest.mark.parametrize("names", [("arr_0", "arr_1"), ("x1", "y1"), ("trainable", "texts")])
def test_unknown_names_are_refused_with_a_list_of_all_arrays(names):
    message = refused({name: np.zeros(3) for name in names}).message
    assert message.startswith(f"given: unknown array '{names[0]}'; ")
    assert message.endswith(f"found {', '.join(names)}")


def test_unknown_name_is_refused_with_a_suggestion():
    error = refused({"x_train": np.zeros((2, 2)), "x_tset": np.zeros((2, 2))})
    assert "given: unknown array 'x_tset'; did you mean 'x_test'? expected x_train, y_train" in error.message
    assert "weight_train" in error.hint


def test_data_without_training_examples_is_refused():
    assert "x_train is missing" in refused({"x_test": np.zeros((2, 2)), "y_test": np.zeros(2)}).message


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x_train=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="contains pickled objects, which can run code"):
        read_npz(path, name="d")


def test_different_lengths_are_refused_with_all_lengths():
    error = refused({"x_train": np.zeros((4, 2)), "y_train": np.zeros(3), "weight_train": np.ones(5)})
    assert error.message == "given: lengths differ: x_train 4, y_train 3, weight_train 5"


@pytest.mark.parametrize("short", ["left", "right"])
def test_all_inputs_must_have_the_same_length(short):
    values = {f"x_train.{name}": np.zeros((3 if name == short else 4, 2)) for name in ("left", "right")}
    error = refused({**values, "y_train": np.zeros(4)})
    assert "lengths differ" in error.message
    assert f"x_train.{short} 3" in error.message


def test_all_inputs_must_contain_numbers():
    values = {"x_train.left": np.array(["a", "b"]), "x_train.right": np.zeros((2, 2))}
    assert "x_train.left must contain numbers" in refused(values).message


def test_empty_split_is_refused():
    values = {"x_train": np.zeros((4, 2)), "y_train": np.zeros(4)}
    error = refused({**values, "x_test": np.zeros((0, 2)), "y_test": np.zeros(0)})
    assert error.message == "given: the test split is empty"


def test_text_inputs_are_refused():
    error = refused({"x": np.array(["cat", "dog"]), "y": np.zeros(2)})
    assert "given: x_train must contain numbers, got <U3 of shape (2,)" in error.message


def test_scalar_is_refused_as_an_array():
    assert "x_train must contain numbers, got" in refused({"x_train": np.array(3.0)}).message


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ([1, -1, 1, -2], "invalid at 1, 3"),
        ([1, np.nan, 1, 1], "invalid at 1"),
        ([[1], [1], [1], [1]], "got shape (4, 1)"),
    ],
)
def test_invalid_weights_are_refused(weights, problem):
    error = refused(arrays(4, weight=np.array(weights)))
    assert f"weight_train must hold one number >= 0 per example ({problem})" in error.message


def test_missing_file_is_refused_with_a_hint(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz: no such file") as caught:
        read_npz(tmp_path / "none.npz", name="d")
    assert "--data" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"PK\x03\x04 and nothing more"])
def test_file_of_another_format_is_refused(tmp_path, content):
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d\.npz: not a readable \.npz file"):
        read_npz(path, name="d")


def test_npy_file_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.zeros(3))
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        read_npz(tmp_path / "d.npz", name="d")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_file_is_refused(tmp_path, save):
    path = tmp_path / "d.npz"
    save(path, x_train=np.random.default_rng(0).integers(0, 9, (50, 20)), y_train=np.zeros(50))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        read_npz(path, name="d")


def test_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        read_npz(tmp_path, name="d")
