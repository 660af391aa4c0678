"""The opened data of a run."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import blobs, save_npz

from kdcli.data.dataset import compute_class_weights, fingerprint_dataset, open_dataset
from kdcli.errors import DataError
from kdcli.recipe.sections import DataSection
from kdcli.sources import Arrays


def opened(arrays=None, *, seed=0, split_validation=True, **section):
    arrays = blobs() if arrays is None else arrays
    return open_dataset(DataSection(**section), seed=seed, arrays=arrays, split_validation=split_validation)


def four(examples=60, tests=30):
    return (*blobs(examples), *blobs(tests, seed=1))


def test_validation_is_split_off_by_class():
    data = opened(four(60), validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (48, 12, 30)
    assert np.bincount(data.validation.all_labels()).tolist() == [4, 4, 4]
    assert not set(data.train.rows) & set(data.validation.rows)
    assert data.validation.split == "validation"


def test_split_depends_on_the_seed():
    rows = [opened(seed=seed).validation.rows.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_validation_split_of_the_source_is_used():
    x, y = blobs(30)
    data = opened({"x_train": x, "y_train": y, "x_validation": x[:9], "y_validation": y[:9]})
    assert (len(data.train), len(data.validation)) == (30, 9)


def test_validation_fraction_zero_gives_no_validation_split():
    data = opened(validation=0.0)
    assert data.validation is None
    assert len(data.train) == 96


def test_evaluation_splits_nothing_off():
    data = opened(four(), split_validation=False, limit=12)
    assert (len(data.train), data.validation) == (60, None)


@pytest.mark.parametrize(("limit", "total"), [(30, 30), (0.5, 48), (1.0, 96)])
def test_limit_counts_training_and_validation_together_by_class(limit, total):
    data = opened(limit=limit)
    assert len(data.train) + len(data.validation) == total
    labels = np.concatenate([data.train.all_labels(), data.validation.all_labels()])
    assert np.bincount(labels).tolist() == [total // 3] * 3


def test_limit_does_not_change_the_test_split():
    assert len(opened(four(), limit=12).test) == 30


def test_single_training_example_is_refused():
    with pytest.raises(DataError, match="data: cannot split validation examples off 1 training example"):
        opened(limit=1)


def test_source_is_read_from_its_file(tmp_path):
    path = save_npz(tmp_path / "d.npz")
    data = open_dataset(DataSection(source=Arrays(path=str(path))), seed=0)
    assert (data.name, data.task, data.outputs, data.input_shape) == (str(path), "classification", 3, (8, 8, 1))


def test_class_names_default_to_numbers():
    assert opened().class_names == ("0", "1", "2")


def test_class_names_are_read_from_a_list():
    data = opened(classes=["a", "b", "c", "d"])
    assert (data.class_names, data.outputs) == (("a", "b", "c", "d"), 4)


@pytest.mark.parametrize("text", ["cat\n dog \n\nelk\n", "0 cat\n1 dog\n2 elk\n"])
def test_class_names_are_read_from_a_file(tmp_path, text):
    path = tmp_path / "names.txt"
    path.write_text(text, "utf-8")
    assert opened(classes=str(path)).class_names == ("cat", "dog", "elk")


def test_missing_file_of_class_names_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.classes: .*none\.txt cannot be read"):
        opened(classes=str(tmp_path / "none.txt"))


def test_duplicate_class_name_is_refused():
    with pytest.raises(DataError, match=r"data\.classes: duplicate name 'a'"):
        opened(classes=["a", "b", "a"])


def test_fewer_class_names_than_classes_are_refused():
    with pytest.raises(DataError, match=r"32 labels outside 0\.\.1"):
        opened(classes=["a", "b"])


def test_class_weights_are_off_by_default():
    assert compute_class_weights(opened(), "none") is None


def test_balanced_class_weights_give_equal_totals():
    y = np.array([0] * 60 + [1] * 30 + [2] * 10)
    data = opened((np.zeros((100, 2)), y), validation=0.0)
    weights = compute_class_weights(data, "balanced")
    np.testing.assert_allclose(weights * [60, 30, 10], [100 / 3] * 3, rtol=1e-6)


def test_class_weights_are_read_by_name():
    data = opened(classes=["a", "b", "c"])
    assert compute_class_weights(data, {"b": 2.5}).tolist() == [1.0, 2.5, 1.0]


def test_class_weight_of_an_unknown_class_is_refused():
    with pytest.raises(DataError, match=r"data\.class_weight: unknown class 'd'; classes: a, b, c"):
        compute_class_weights(opened(classes=["a", "b", "c"]), {"d": 2.0})


def test_class_weights_require_classes():
    with pytest.raises(DataError, match=r"data\.class_weight requires labels"):
        compute_class_weights(opened((np.zeros((9, 2)), np.random.default_rng(0).random((9, 2)))), "balanced")


def test_ignored_labels_still_define_the_number_of_outputs():
    data = opened(labels="none")
    assert not data.labelled
    assert data.train.labels is None
    assert data.validation.labels is None
    assert data.outputs == 3


def test_unlabelled_data_takes_outputs_from_class_names():
    data = opened((blobs()[0], None), classes=["a", "b"])
    assert (data.labelled, data.outputs, data.task) == (False, 2, "classification")


@pytest.mark.parametrize("part", ["x_train", "y_train", "x_test", "y_test"])
def test_fingerprint_changes_with_content(part):
    names = ("x_train", "y_train", "x_test", "y_test")
    first, other = dict(zip(names, four(), strict=True)), dict(zip(names, four(), strict=True))
    assert fingerprint_dataset(opened(first)) == fingerprint_dataset(opened(other))
    changed = other[part].copy()
    changed.flat[0] = 1
    assert fingerprint_dataset(opened(first)) != fingerprint_dataset(opened({**other, part: changed}))


def test_fingerprint_changes_with_weights_and_split():
    x, y = blobs()
    weighted = [{"x": x, "y": y, "weight": np.full(96, weight)} for weight in (1.0, 2.0)]
    found = {fingerprint_dataset(opened(arrays)) for arrays in ({"x": x, "y": y}, *weighted)}
    found |= {fingerprint_dataset(opened(seed=1)), fingerprint_dataset(opened(limit=50))}
    assert len(found) == 5


def test_split_auto_is_the_test_split_or_everything():
    assert len(opened(four(60, 30)).split("auto")) == 30
    everything = opened().split("auto")
    assert (len(everything), everything.split) == (96, "all")
    assert np.bincount(everything.all_labels()).tolist() == [32, 32, 32]


def test_split_all_concatenates_every_split():
    data = opened(four(60, 30))
    everything = data.split("all")
    expected = [part.take(np.arange(len(part)))["x"] for part in (data.train, data.validation, data.test)]
    np.testing.assert_array_equal(everything.take(np.arange(90))["x"], np.concatenate(expected))


def test_missing_split_is_refused_with_the_available_ones():
    with pytest.raises(DataError, match="data: no test split; available: train, validation"):
        opened().split("test")


def test_splits_of_different_shape_are_refused():
    with pytest.raises(DataError, match="data: x_test has shape"):
        opened((*blobs(12), *blobs(12, size=6)))


def test_lists_are_converted_to_arrays():
    data = opened(([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]))
    assert (len(data.train) + len(data.validation), data.outputs) == (4, 2)


@pytest.mark.parametrize("arrays", [3, ([0], [1], [2]), "x"])
def test_other_python_objects_are_refused(arrays):
    with pytest.raises(DataError, match=r"data: expected \(x, y\), \(x_train, y_train, x_test, y_test\)"):
        opened(arrays)


def test_a_test_split_is_set_aside_by_class():
    data = opened(test=0.25, validation=0.0)
    assert (len(data.train), len(data.test)) == (72, 24)
    assert np.bincount(data.test.all_labels()).tolist() == [8, 8, 8]
    assert not set(data.train.rows) & set(data.test.rows)
    assert data.test.split == "test"


def test_equal_examples_are_set_aside_together():
    x, y = blobs(60)
    data = opened((np.concatenate([x, x, x[:10]]), np.concatenate([y, y, y[:10]])), test=0.2, validation=0.0)
    train, test = (
        {image.tobytes() for image in one.take(np.arange(len(one)))["x"]} for one in (data.train, data.test)
    )
    assert not train & test
    assert len(test) == 12
    assert len(data.train) + len(data.test) == 130


def test_the_split_that_is_set_aside_does_not_depend_on_limit_and_validation():
    rows = [
        opened(test=0.25, **options).test.rows.tolist()
        for options in ({}, {"limit": 20}, {"validation": 0.5}, {"split_validation": False})
    ]
    assert rows == [rows[0]] * 4


def test_a_test_split_of_the_source_is_used():
    assert len(opened(four(60, 30), test=0.5).test) == 30
    assert opened(test="auto").test is None
