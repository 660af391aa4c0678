"""A network is fitted to the data: class counts of labels and outputs, scales of target images."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

import kdcli
from kdcli.errors import DataError, KdError, ModelError
from kdcli.events import Note

X, Y = blobs(60, classes=10)


def classifier(outputs: int, activation=None) -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation)(flat))


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """A classifier of ten classes, in a file."""
    path = tmp_path_factory.mktemp("models") / "ten.keras"
    keras.utils.set_random_seed(0)
    classifier(10).save(path)
    return path


def find_refusal(model, labels, *, kind: type[KdError] = ModelError, **more):
    with pytest.raises(kind) as caught:
        kdcli.evaluate(model, data=(X, labels), **more)
    return caught.value


def accuracy(model, labels, *settings: str) -> float | None:
    return kdcli.evaluate(model, data=(X, labels), settings=settings).models[0].quality.accuracy


def keras_accuracy(model, labels) -> float:
    """Plain Keras' accuracy."""
    predicted = keras.saving.load_model(model).predict(X / np.float32(255), verbose=0).argmax(-1)
    return float(np.mean(predicted == labels))


def test_labels_from_one_on_are_refused_with_the_setting_that_shifts_them(ten):
    error = find_refusal(ten, Y + 1)
    setting = "data.classes=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"
    assert "has 10 outputs, the data has 11 classes: the labels are 1 to 10" in error.message
    assert f"--set '{setting}'" in error.hint
    assert accuracy(ten, Y + 1, setting) == keras_accuracy(ten, Y)


def test_a_missing_last_class_is_refused_with_the_setting_that_adds_it(ten):
    seen = np.where(Y == 9, 0, Y)
    error = find_refusal(ten, seen)
    setting = "data.classes=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
    assert "the labels range from 0 to 8" in error.message
    assert f"--set '{setting}'" in error.hint
    assert accuracy(ten, seen, setting) == keras_accuracy(ten, seen)


def test_one_label_beyond_the_outputs_is_refused_with_its_value_and_index(ten):
    labels = Y.copy()
    labels[17] = 10
    error = find_refusal(ten, labels, kind=DataError)
    assert error.exit_code == 3
    assert "y_train has 1 labels outside 0..9" in error.message
    assert "(values 10; at 17)" in error.message


def test_many_labels_beyond_the_outputs_are_refused_as_the_wrong_model(ten):
    assert "has 10 outputs, the data has 20 classes" in find_refusal(ten, np.arange(60) % 20).message


def test_one_linear_output_is_refused_with_the_regression_setting(tmp_path):
    classifier(1).save(tmp_path / "one.keras")
    assert "--set data.task=regression" in find_refusal(tmp_path / "one.keras", Y).hint


def test_minus_one_and_one_are_the_classes_of_one_sigmoid(tmp_path):
    keras.utils.set_random_seed(1)
    classifier(1, "sigmoid").save(tmp_path / "one.keras")
    labels = Y % 2
    predicted = keras.saving.load_model(tmp_path / "one.keras").predict(X / np.float32(255), verbose=0)[:, 0]
    found = accuracy(tmp_path / "one.keras", labels * 2 - 1, "student.input.scale=unit")
    assert found == np.mean((predicted > 0.5) == labels)


IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)


def copier(scale: float, shift: float, *, activation=None) -> keras.Model:
    """A model for images in [0, 1] that gives them back as `scale * x + shift`."""
    inputs = keras.Input((8, 8, 1))
    layer = keras.layers.Conv2D(1, 1, activation=activation)
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.full((1, 1, 1, 1), scale, np.float32), np.full(1, shift, np.float32)])
    return model


SCALES = {"unit": (copier(0.9, 0.03), 1.0), "signed": (copier(1.8, -0.9), 2.0), "raw": (copier(230, 8), 255.0)}


def in_scale(scale: str) -> np.ndarray:
    return {"unit": IMAGES / 255.0, "signed": IMAGES / 127.5 - 1, "raw": IMAGES * 1.0}[scale].astype(np.float32)


def saved(model, path):
    model.save(path / "m.keras")
    return path / "m.keras"


def measured(path, *settings: str, targets=IMAGES, **more):
    wanted = ("student.input.scale=unit", *settings)
    return kdcli.evaluate(path, data=(IMAGES, targets), settings=wanted, **more).models[0].quality


@pytest.mark.parametrize("scale", SCALES)
def test_each_target_scale_is_measured_correctly_or_refused_with_the_setting(tmp_path, scale):
    model, peak = SCALES[scale]
    path = saved(model, tmp_path)
    if scale != "unit":
        with pytest.raises(ModelError, match=f"fit targets of the scale {scale}") as caught:
            measured(path)
        assert caught.value.hint == f"--set data.target_scale={scale}"
    quality = measured(path, f"data.target_scale={scale}")
    given, wanted = model.predict(IMAGES / np.float32(255), verbose=0), in_scale(scale)
    assert quality.rmse == pytest.approx(float(np.sqrt(np.mean(np.square(given - wanted)))), rel=1e-4)
    assert quality.psnr == pytest.approx(float(tf.reduce_mean(tf.image.psnr(given, wanted, peak))), rel=1e-4)


def test_float_targets_up_to_255_for_a_sigmoid_are_refused_with_the_setting(tmp_path):
    path = saved(copier(6, -3, activation="sigmoid"), tmp_path)
    with pytest.raises(
        ModelError, match=r"its last layer \(sigmoid\) gives 0 to 1, but the targets range from 0 to 255"
    ) as caught:
        measured(path, targets=in_scale("raw"))
    assert caught.value.hint == "--set data.target_scale=unit"
    given = keras.saving.load_model(path).predict(IMAGES / np.float32(255), verbose=0)
    found = measured(path, "data.target_scale=unit", targets=in_scale("raw")).rmse
    assert found == pytest.approx(float(np.sqrt(np.mean(np.square(given - in_scale("unit"))))), rel=1e-4)


def test_targets_of_another_range_that_no_scale_explains_give_a_warning(tmp_path):
    events = []
    measured(saved(copier(230, 8), tmp_path), targets=in_scale("unit"), on_event=events.append)
    warnings = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert any("its outputs reach 238, but the targets 1" in text for text in warnings)


def test_depth_from_a_linear_layer_is_measured_without_scaling(tmp_path):
    depth = IMAGES[..., 0] / np.float32(25)
    model = copier(10, 0.1)
    given = model.predict(IMAGES / np.float32(255), verbose=0)[..., 0]
    quality = measured(saved(model, tmp_path), targets=depth)
    assert quality.mae == pytest.approx(float(np.mean(np.abs(given - depth))), rel=1e-4)


def test_outputs_of_another_size_than_the_targets_are_refused(tmp_path):
    path = saved(copier(1, 0), tmp_path)
    with pytest.raises(ModelError, match="the output has shape 8×8×1, but the labels need 4×4×1"):
        measured(path, targets=in_scale("unit")[:, ::2, ::2])
