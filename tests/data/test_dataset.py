"""The data of a run, put together."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import blobs, save_npz

from kdcli.data.dataset import compute_class_weights, fingerprint_dataset, open_dataset
from kdcli.errors import DataError
from kdcli.recipe.sections import DataSection
from kdcli.sources import Arrays


def opened(arrays=None, *, seed=0, carve=True, **section):
    arrays = blobs() if arrays is None else arrays
    return open_dataset(DataSection(**section), seed=seed, arrays=arrays, split_validation=carve)


def four(examples=60, tests=30):
    return (*blobs(examples), *blobs(tests, seed=1))


def test_validation_is_carved_from_training_by_class():
    data = opened(four(60), validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (48, 12, 30)
    assert np.bincount(data.validation.all_labels()).tolist() == [4, 4, 4]
    assert not set(data.train.rows) & set(data.validation.rows)
    assert data.validation.split == "validation"


def test_the_split_follows_from_the_seed():
    rows = [opened(seed=seed).validation.rows.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_a_validation_split_of_the_source_is_used_as_it_is():
    x, y = blobs(30)
    data = opened({"x_train": x, "y_train": y, "x_validation": x[:9], "y_validation": y[:9]})
    assert (len(data.train), len(data.validation)) == (30, 9)


def test_no_validation_when_its_share_is_zero():
    data = opened(validation=0.0)
    assert data.validation is None
    assert len(data.train) == 96


def test_nothing_is_carved_for_evaluation():
    data = opened(four(), carve=False, limit=12)
    assert (len(data.train), data.validation) == (60, None)


@pytest.mark.parametrize(("limit", "total"), [(30, 30), (0.5, 48), (1.0, 96)])
def test_a_limit_holds_for_training_and_validation_together_by_class(limit, total):
    data = opened(limit=limit)
    assert len(data.train) + len(data.validation) == total
    labels = np.concatenate([data.train.all_labels(), data.validation.all_labels()])
    assert np.bincount(labels).tolist() == [total // 3] * 3


def test_a_limit_leaves_the_test_split_alone():
    assert len(opened(four(), limit=12).test) == 30


def test_one_training_example_leaves_none_for_validation():
    with pytest.raises(DataError, match="data: 1 training example leaves none for validation"):
        opened(limit=1)


def test_a_source_is_read_from_its_file(tmp_path):
    path = save_npz(tmp_path / "d.npz")
    data = open_dataset(DataSection(source=Arrays(path=str(path))), seed=0)
    assert (data.name, data.task, data.outputs, data.input_shape) == (str(path), "classification", 3, (8, 8, 1))


def test_class_names_default_to_numbers():
    assert opened().class_names == ("0", "1", "2")


def test_class_names_come_from_a_list_and_count():
    data = opened(classes=["a", "b", "c", "d"])
    assert (data.class_names, data.outputs) == (("a", "b", "c", "d"), 4)


@pytest.mark.parametrize("text", ["cat\n dog \n\nelk\n", "0 cat\n1 dog\n2 elk\n"])
def test_class_names_come_from_a_file(tmp_path, text):
    path = tmp_path / "names.txt"
    path.write_text(text, "utf-8")
    assert opened(classes=str(path)).class_names == ("cat", "dog", "elk")


def test_a_missing_file_of_class_names_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.classes: .*none\.txt cannot be read"):
        opened(classes=str(tmp_path / "none.txt"))


def test_a_class_name_may_not_appear_twice():
    with pytest.raises(DataError, match=r"data\.classes: a name appears twice"):
        opened(classes=["a", "b", "a"])


def test_fewer_class_names_than_classes_are_refused():
    with pytest.raises(DataError, match=r"32 labels outside 0\.\.1"):
        opened(classes=["a", "b"])


def test_no_class_weights_unless_asked_for():
    assert compute_class_weights(opened(), "none") is None


def test_balanced_weights_make_every_class_count_the_same():
    y = np.array([0] * 60 + [1] * 30 + [2] * 10)
    data = opened((np.zeros((100, 2)), y), validation=0.0)
    weights = compute_class_weights(data, "balanced")
    np.testing.assert_allclose(weights * [60, 30, 10], [100 / 3] * 3, rtol=1e-6)


def test_a_mapping_weighs_the_named_classes():
    data = opened(classes=["a", "b", "c"])
    assert compute_class_weights(data, {"b": 2.5}).tolist() == [1.0, 2.5, 1.0]


def test_weights_of_an_unknown_class_are_refused_with_the_classes():
    with pytest.raises(DataError, match=r"data\.class_weight: no class 'd'; classes: a, b, c"):
        compute_class_weights(opened(classes=["a", "b", "c"]), {"d": 2.0})


def test_class_weights_need_labelled_classes():
    with pytest.raises(DataError, match=r"data\.class_weight needs labels"):
        compute_class_weights(opened((np.zeros((9, 2)), np.random.default_rng(0).random((9, 2)))), "balanced")


def test_ignored_labels_are_gone_but_still_size_the_output():
    data = opened(labels="none")
    assert not data.labelled
    assert data.train.labels is None
    assert data.validation.labels is None
    assert data.outputs == 3


def test_unlabelled_data_with_named_classes_opens():
    data = opened((blobs()[0], None), classes=["a", "b"])
    assert (data.labelled, data.outputs, data.task) == (False, 2, "classification")


@pytest.mark.parametrize("part", ["x_train", "y_train", "x_test", "y_test"])
def test_the_fingerprint_changes_with_any_content(part):
    names = ("x_train", "y_train", "x_test", "y_test")
    first, other = dict(zip(names, four(), strict=True)), dict(zip(names, four(), strict=True))
    assert fingerprint_dataset(opened(first)) == fingerprint_dataset(opened(other))
    changed = other[part].copy()
    changed.flat[0] = 1
    assert fingerprint_dataset(opened(first)) != fingerprint_dataset(opened({**other, part: changed}))


def test_the_fingerprint_changes_with_weights_and_split():
    x, y = blobs()
    weighted = [{"x": x, "y": y, "weight": np.full(96, weight)} for weight in (1.0, 2.0)]
    found = {fingerprint_dataset(opened(arrays)) for arrays in ({"x": x, "y": y}, *weighted)}
    found |= {fingerprint_dataset(opened(seed=1)), fingerprint_dataset(opened(limit=50))}
    assert len(found) == 5


def test_auto_is_the_test_split_where_there_is_one_and_everything_otherwise():
    assert len(opened(four(60, 30)).split("auto")) == 30
    everything = opened().split("auto")
    assert (len(everything), everything.split) == (96, "all")
    assert np.bincount(everything.all_labels()).tolist() == [32, 32, 32]


def test_all_is_every_split_in_order():
    data = opened(four(60, 30))
    everything = data.split("all")
    expected = [part.take(np.arange(len(part)))["x"] for part in (data.train, data.validation, data.test)]
    np.testing.assert_array_equal(everything.take(np.arange(90))["x"], np.concatenate(expected))


def test_a_missing_split_is_refused_with_those_there_are():
    with pytest.raises(DataError, match="data: has no test split; there is train, validation"):
        opened().split("test")


def test_splits_of_different_shape_are_refused():
    with pytest.raises(DataError, match="data: x_test has shape"):
        opened((*blobs(12), *blobs(12, size=6)))


def test_lists_are_taken_as_arrays():
    data = opened(([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]))
    assert (len(data.train) + len(data.validation), data.outputs) == (4, 2)


@pytest.mark.parametrize("given", [3, ([0], [1], [2]), "x"])
def test_anything_else_from_python_is_refused(given):
    with pytest.raises(DataError, match=r"data: expected \(x, y\), \(x_train, y_train, x_test, y_test\)"):
        opened(given)
