"""Names of classes, their labels, and counting classes in integer labels."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.classes import count_classes, format_classes_setting
from kdcli.data.dataset import open_dataset
from kdcli.errors import DataError
from kdcli.recipe.sections import DataSection
from kdcli.sources import Table

X = np.zeros((12, 2))
WORDS = np.array(["dog", "cat", "cat", "emu"] * 3)


def opened(labels, *, test=None, **section):
    arrays = {"x_train": X, "y_train": labels}
    if test is not None:
        arrays |= {"x_test": X[: len(test)], "y_test": test}
    return open_dataset(DataSection(validation=0.0, **section), seed=0, arrays=arrays)


@pytest.mark.parametrize("labels", [WORDS, WORDS.astype(object), WORDS.astype(bytes), WORDS[:, None]])
def test_text_labels_are_numbered_in_string_order(labels):
    data = opened(labels)
    assert (data.class_names, data.outputs) == (("cat", "dog", "emu"), 3)
    assert data.train.labels.tolist() == [1, 0, 0, 2] * 3


def test_text_labels_are_numbered_in_the_order_of_the_names():
    data = opened(WORDS, classes=["emu", "dog", "cat", "fox"])
    assert data.train.labels.tolist() == [1, 2, 2, 0] * 3
    assert data.outputs == 4


def test_text_label_that_is_not_a_class_is_refused():
    with pytest.raises(DataError, match=r"y_test has 1 labels that are not among the classes \('cow'; at 1\)"):
        opened(WORDS, test=np.array(["cat", "cow"]))


@pytest.mark.parametrize(
    ("labels", "names"), [([1, 2, 3], [1, 2, 3]), ([-1, 1], ["-1", "1"]), ([0, 255], [0, 255])]
)
def test_integer_names_are_the_labels(labels, names):
    data = opened(np.resize(labels, 12), classes=names)
    assert data.train.labels.tolist() == np.resize(np.arange(len(labels)), 12).tolist()
    assert data.class_names == tuple(str(label) for label in labels)


def test_labels_from_one_are_mapped_by_their_names():
    # Without the last class the labels would also be valid as 0 to 3.
    assert opened(np.resize([1, 2, 3], 12), classes=[1, 2, 3, 4]).train.labels.tolist() == [0, 1, 2] * 4


def test_reordered_class_names_reorder_the_outputs(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,label\n1,dog\n2,cat\n3,cat\n4,dog\n", "utf-8")

    def labels(**more):
        section = DataSection(source=Table(path=str(path)), validation=0.0, **more)
        return open_dataset(section, seed=0).train.labels.tolist()

    assert labels() == [1, 0, 0, 1]
    assert labels(classes=["dog", "cat"]) == [0, 1, 1, 0]
    assert labels(classes=["Katze", "Hund"]) == [1, 0, 0, 1]
    with pytest.raises(DataError, match=r"'cat' of .* is missing"):
        labels(classes=["dog", "Katze"])


def test_many_classes_are_named_in_a_file(tmp_path):
    assert format_classes_setting([1, 2, 3]) == "--set 'data.classes=[1, 2, 3]'"
    assert format_classes_setting(range(1, 101)).startswith("seq 1 100 > classes.txt")
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{number}\n" for number in range(1, 4)), "utf-8")
    assert opened(np.resize([1, 2, 3], 12), classes=str(path)).train.labels.tolist() == [0, 1, 2] * 4


TEN = np.arange(400) % 10


def counted(labels, *, declared=False, maps=False, ignore=None):
    return count_classes(np.asarray(labels), "y_train", declared=declared, maps=maps, ignore=ignore)


def refused(labels, **more):
    with pytest.raises(DataError) as caught:
        counted(labels, **more)
    assert caught.value.exit_code == 3
    return caught.value


def test_consecutive_classes_need_no_note():
    assert counted(TEN).count == 10
    assert counted(TEN).notes == counted(TEN).values == ()


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_labels_minus_one_and_one_are_two_classes_with_a_note(dtype):
    found = counted((TEN % 2 * 2 - 1).astype(dtype))
    assert (found.count, found.values) == (2, (-1, 1))
    assert found.notes == ("y_train: labels -1 and 1 are read as classes 0 and 1",)


def test_labels_from_one_are_kept_and_a_note_tells_how_to_shift_them():
    found = counted(TEN + 1)
    assert (found.count, found.values) == (11, ())
    assert "--set 'data.classes=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]' when the first class is 1" in found.notes[0]


def test_missing_class_gets_a_note():
    assert counted(TEN[TEN != 5]).notes == ("y_train has labels up to 9, but 5 never occurs",)


@pytest.mark.parametrize(
    "values",
    [
        221_900 + np.arange(200) * 1000,
        np.arange(400),
        np.arange(200) + 100,
        np.random.default_rng(0).integers(18, 90, 1000),
        np.random.default_rng(0).integers(18, 90, 1000).astype(np.float32),
    ],
    ids=["prices", "row numbers", "one of each", "ages", "ages as floats"],
)
def test_many_values_with_few_examples_each_are_refused_with_a_regression_hint(values):
    error = refused(values)
    assert f"{len(np.unique(values))} different whole numbers" in error.message
    assert "--set data.task=regression" in error.hint


def test_many_classes_without_gaps_get_a_regression_note():
    found = counted(np.arange(1000) % 90)
    assert found.count == 90
    assert "--set data.task=regression" in found.notes[0]
    assert counted(np.arange(1000) % 90, declared=True).notes == ()


def test_thirty_values_in_a_thousand_examples_are_classes_and_gaps_get_a_note():
    found = counted(np.arange(1000) % 30 + 20)
    assert found.count == 50
    assert "0, 1, 2, 3, 4 and 15 more never occur" in found.notes[0]
    assert "--set data.task=regression" in found.notes[0]


def test_label_far_out_of_range_is_refused_with_value_position_and_count():
    error = refused(np.r_[TEN, [99]])
    assert "(99 in 1 examples, at 400)" in error.message
    assert error.hint.startswith("correct these labels")


@pytest.mark.parametrize("labels", [(TEN % 3 + 1) * 1000, TEN % 2 * 255, np.array([0, 128, 255])[TEN % 3]])
def test_labels_with_wide_gaps_are_refused_with_a_classes_setting(labels):
    listed = ", ".join(str(value) for value in np.unique(labels))
    assert f"--set 'data.classes=[{listed}]'" in refused(labels).hint


def test_label_minus_one_among_classes_is_refused():
    assert "remove these examples" in refused(np.where(TEN == 3, -1, TEN)).hint


@pytest.mark.parametrize("value", [0, 1])
def test_single_class_is_refused(value):
    assert f"every label is {value}" in refused(np.full(20, value)).message


def test_ignore_hint_is_given_only_if_the_rest_are_classes():
    binary, three = TEN[:400].reshape(4, 10, 10) % 2, TEN[:400].reshape(4, 10, 10) % 3
    assert "data.ignore=255" in refused(np.where(three == 2, 255, three), maps=True).hint
    trimap = np.where(three == 2, 255, three * 128)
    assert "data.ignore" not in refused(trimap, maps=True).hint
    assert counted(binary * 255, maps=True).values == (0, 255)
