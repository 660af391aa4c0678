"""Labels stored by output name."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.dataset import open_dataset
from kdcli.errors import DataError
from kdcli.recipe.sections import DataSection

X = np.zeros((12, 4))
DIGIT, BIG = np.arange(12) % 3, np.arange(12) % 2
BOTH = {"x_train": X, "y_train.digit": DIGIT, "y_train.big": BIG, "x_test": X}
BOTH |= {"y_test.digit": DIGIT, "y_test.big": BIG}


def opened(arrays, *, outputs=(), **section):
    return open_dataset(DataSection(validation=0.0, **section), seed=0, arrays=arrays, output_names=outputs)


def refused(arrays, **more):
    with pytest.raises(DataError) as caught:
        opened(arrays, **more)
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize(
    "more", [{"outputs": ("big",)}, {"labels": "big"}, {"outputs": ("other",), "labels": "big"}]
)
def test_labels_are_selected_by_output_or_name_with_a_note(more):
    data = opened(BOTH, **more)
    np.testing.assert_array_equal(data.train.labels, BIG)
    np.testing.assert_array_equal(data.test.labels, BIG)
    assert (data.outputs, data.label_name) == (2, "big")
    assert data.notes == ("data: labels are y_train.big; not used: y_train.digit",)


@pytest.mark.parametrize("outputs", [(), ("dense",)])
def test_several_labels_without_a_choice_are_refused(outputs):
    error = refused(BOTH, outputs=outputs)
    assert error.message == "data: several labels: y_train.digit, y_train.big"
    assert "--output digit" in error.hint
    assert "--set data.labels=digit" in error.hint


def test_only_named_labels_are_used_with_a_note():
    data = opened({"x": X, "y.digit": DIGIT})
    assert (data.outputs, data.notes) == (3, ("data: labels are y_train.digit",))


def test_unknown_label_name_is_refused_with_a_suggestion():
    assert "no y_train.bog; did you mean 'big'?" in refused(BOTH, labels="bog").message


def test_split_with_another_label_name_is_refused():
    error = refused({"x_train": X, "y_train": DIGIT, "x_test": X, "y_test.labels": DIGIT})
    assert error.message == "data: labels y_test.labels; expected y_test as in the training split"


def test_label_name_missing_in_one_split_is_refused():
    error = refused({key: value for key, value in BOTH.items() if key != "y_test.big"}, labels="digit")
    assert "labels y_test.digit; expected y_test.digit, y_test.big" in error.message


def test_plain_and_named_labels_together_are_refused():
    assert "y_train, y_train.big" in refused({"x": X, "y": DIGIT, "y.big": BIG}).message


def test_labels_without_inputs_are_refused():
    assert (
        refused({"x_train": X, "y_train": DIGIT, "y_test": DIGIT}).message == "data: y_test has no matching x_test"
    )


def test_ignored_labels_need_no_choice():
    assert opened(BOTH, labels="none", classes=["a", "b"]).train.labels is None
