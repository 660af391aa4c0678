"""Labels and outputs that do not fit each other."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import blobs

import kdcli
from kdcli.errors import DataError, KdError, ModelError

X, Y = blobs(60, classes=10)


def network(outputs: int, activation=None) -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation)(flat))


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """A classifier of ten classes, in a file."""
    path = tmp_path_factory.mktemp("models") / "ten.keras"
    keras.utils.set_random_seed(0)
    network(10).save(path)
    return path


def refused(model, labels, *, kind: type[KdError] = ModelError, **more):
    with pytest.raises(kind) as caught:
        kdcli.evaluate(model, data=(X, labels), **more)
    return caught.value


def accuracy(model, labels, *settings: str) -> float | None:
    return kdcli.evaluate(model, data=(X, labels), settings=settings).models[0].quality.accuracy


def right(model, labels) -> float:
    """Plain Keras' accuracy."""
    predicted = keras.saving.load_model(model).predict(X / np.float32(255), verbose=0).argmax(-1)
    return float(np.mean(predicted == labels))


def test_labels_from_one_on_are_never_shifted_without_a_word(ten):
    error = refused(ten, Y + 1)
    setting = "data.classes=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"
    assert "has 10 outputs, the data has 11 classes: the labels are 1 to 10" in error.message
    assert f"--set '{setting}'" in error.hint
    assert accuracy(ten, Y + 1, setting) == right(ten, Y)


def test_a_last_class_that_never_occurs_is_named(ten):
    seen = np.where(Y == 9, 0, Y)
    error = refused(ten, seen)
    setting = "data.classes=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
    assert "the labels range from 0 to 8" in error.message
    assert f"--set '{setting}'" in error.hint
    assert accuracy(ten, seen, setting) == right(ten, seen)


def test_one_label_beyond_the_outputs_is_refused_with_its_value_and_place(ten):
    labels = Y.copy()
    labels[17] = 10
    error = refused(ten, labels, kind=DataError)
    assert error.exit_code == 3
    assert "y_train has 1 labels outside 0..9" in error.message
    assert "(values 10; at 17)" in error.message


def test_many_labels_beyond_the_outputs_are_another_model(ten):
    assert "has 10 outputs, the data has 20 classes" in refused(ten, np.arange(60) % 20).message


def test_one_linear_output_names_regression(tmp_path):
    network(1).save(tmp_path / "one.keras")
    assert "--set data.task=regression" in refused(tmp_path / "one.keras", Y).hint


def test_minus_one_and_one_are_the_classes_of_one_sigmoid(tmp_path):
    keras.utils.set_random_seed(1)
    network(1, "sigmoid").save(tmp_path / "one.keras")
    labels = Y % 2
    predicted = keras.saving.load_model(tmp_path / "one.keras").predict(X / np.float32(255), verbose=0)[:, 0]
    found = accuracy(tmp_path / "one.keras", labels * 2 - 1, "student.input.scale=unit")
    assert found == np.mean((predicted > 0.5) == labels)
