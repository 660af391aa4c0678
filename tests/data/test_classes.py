"""What classes are called, and which label stands for which."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.classes import format_classes_setting
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
def test_texts_are_classes_in_string_order(labels):
    data = opened(labels)
    assert (data.class_names, data.outputs) == (("cat", "dog", "emu"), 3)
    assert data.train.labels.tolist() == [1, 0, 0, 2] * 3


def test_texts_go_to_the_outputs_in_the_order_of_the_names():
    data = opened(WORDS, classes=["emu", "dog", "cat", "fox"])
    assert data.train.labels.tolist() == [1, 2, 2, 0] * 3
    assert data.outputs == 4


def test_a_text_of_another_split_that_is_no_class_is_refused():
    with pytest.raises(DataError, match=r"y_test has 1 labels that are not among the classes \('cow'; at 1\)"):
        opened(WORDS, test=np.array(["cat", "cow"]))


@pytest.mark.parametrize(
    ("labels", "names"), [([1, 2, 3], [1, 2, 3]), ([-1, 1], ["-1", "1"]), ([0, 255], [0, 255])]
)
def test_names_that_are_whole_numbers_are_the_labels(labels, names):
    data = opened(np.resize(labels, 12), classes=names)
    assert data.train.labels.tolist() == np.resize(np.arange(len(labels)), 12).tolist()
    assert data.class_names == tuple(str(label) for label in labels)


def test_labels_from_one_on_are_not_shifted_by_accident():
    # Without the last class they would fit 0 to 3 as they stand.
    assert opened(np.resize([1, 2, 3], 12), classes=[1, 2, 3, 4]).train.labels.tolist() == [0, 1, 2] * 4


def test_the_names_of_a_source_in_another_order_are_another_order_of_the_outputs(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,label\n1,dog\n2,cat\n3,cat\n4,dog\n", "utf-8")

    def labels(**more):
        section = DataSection(source=Table(path=str(path)), validation=0.0, **more)
        return open_dataset(section, seed=0).train.labels.tolist()

    assert labels() == [1, 0, 0, 1]
    assert labels(classes=["dog", "cat"]) == [0, 1, 1, 0]
    assert labels(classes=["Katze", "Hund"]) == [1, 0, 0, 1]
    with pytest.raises(DataError, match="has no 'cat'"):
        labels(classes=["dog", "Katze"])


def test_many_classes_are_named_through_a_file(tmp_path):
    assert format_classes_setting([1, 2, 3]) == "--set 'data.classes=[1, 2, 3]'"
    assert format_classes_setting(range(1, 101)).startswith("seq 1 100 > classes.txt")
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{number}\n" for number in range(1, 4)), "utf-8")
    assert opened(np.resize([1, 2, 3], 12), classes=str(path)).train.labels.tolist() == [0, 1, 2] * 4
