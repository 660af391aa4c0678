"""Choosing the teacher's outputs for the classes of the data."""

from __future__ import annotations

import pytest

from kdcli.errors import UsageError
from kdcli.models.outputs import choose_columns

ANIMALS = ("ant", "bee", "cat", "dog", "elk")


def test_names_are_found_in_the_order_of_the_data():
    assert choose_columns(ANIMALS, output_count=5, class_names=("dog", "ant")) == (3, 0)


def test_column_numbers_are_used_as_given():
    assert choose_columns((4, 2), output_count=5, class_names=("x", "y")) == (4, 2)


def test_names_may_come_from_a_file(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(ANIMALS) + "\n\n")
    assert choose_columns(str(file), output_count=5, class_names=("elk",)) == (4,)


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (("cat", "dog"), ("dog",), "names 2 classes, the teacher has 5 outputs"),
        (ANIMALS, ("dig", "fox"), r"has no class 'dig' \(and 1 more\); did you mean 'dog'"),
        (("cat", "cat", "a", "b", "c"), ("cat",), "has 'cat' more than once"),
        ((1, 2, 3), ("x", "y"), "3 column numbers, the data has 2 classes"),
        ((1, 5), ("x", "y"), "column 5 does not exist, the teacher has 5 outputs"),
        ((1, 1), ("x", "y"), "two classes of the data have the same column"),
        ("nowhere.txt", ("x",), "nowhere.txt cannot be read"),
    ],
)
def test_invalid_columns_are_refused(classes, names, message):
    with pytest.raises(UsageError, match=message):
        choose_columns(classes, output_count=5, class_names=names)
