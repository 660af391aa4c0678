"""Classifier reuse: the combined model of a student and its teacher's classifier."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.losses import make
from kdcli.models.keras.classifier_reuse import PROJECTED, graft_classifier
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing

X = np.random.default_rng(0).random((3, 16, 16, 3)).astype(np.float32)
RAW = {"x": Preprocessing((16, 16, 3), "float32", (16, 16, 3), "float32", "raw")}


def network(width, *, pools=2, softmax=False, seed=0, nested=False):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 16, 3))
    flow = inputs
    for number in range(pools):
        flow = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{number}")(flow)
        flow = keras.layers.MaxPooling2D(name=f"pool{number}")(flow)
    last = keras.layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="last")
    if nested:
        flow = keras.Sequential([keras.Input(flow.shape[1:]), last], name="block")(flow)
    else:
        flow = last(flow)
    flow = keras.layers.GlobalAveragePooling2D(name="pooled")(flow)
    flow = keras.layers.Dropout(0.5, name="dropout")(flow)
    output = keras.layers.Dense(5, activation="softmax" if softmax else None, name="head")(flow)
    return KerasNetwork(keras.Model(inputs, output), name=f"width {width}").with_preprocessing(RAW)


def grow(student, teacher, *, student_tap="last", teacher_tap="last"):
    projector = make("classifier_reuse").projector(student.taps[student_tap], teacher.taps[teacher_tap])
    return graft_classifier(student, teacher, projector, student_tap=student_tap, teacher_tap=teacher_tap)[0]


@pytest.mark.parametrize("pools", [(2, 2), (1, 2), (2, 1)], ids=str)
def test_the_logits_are_the_teachers_classifier_on_the_mean_of_the_projected_map(pools):
    student, teacher = network(4, pools=pools[0]), network(8, pools=pools[1], softmax=True, seed=1)
    model = grow(student, teacher)
    outputs = model.compute({"x": X}, taps=[PROJECTED])
    kernel, bias = teacher.model.get_layer("head").get_weights()
    expected = outputs.features[PROJECTED].numpy().mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)
    assert (model.saved_kind, model.output_kind, model.outputs) == ("probabilities", "logits", 5)


def test_only_the_student_and_the_projector_are_trained():
    student, teacher = network(4), network(8, seed=1)
    model = grow(student, teacher)
    # Three convolutions without bias, each with a scale and a shift.
    trained = [variable for variable in student.model.trainable_variables if "head" not in variable.path]
    assert len(model.trainable_variables) == len(trained) + 9
    assert {id(variable) for variable in trained} <= {id(variable) for variable in model.trainable_variables}
    head = model.model.get_layer("teacher_classifier")
    assert not head.trainable_variables
    assert all(
        student_tap is not teacher_tap for student_tap in head.variables for teacher_tap in teacher.model.variables
    )


def test_the_classifier_computes_the_same_in_training():
    # Dropout of the teacher would draw in every step.
    model = grow(network(4), network(8, seed=1))
    head = model.model.get_layer("teacher_classifier")
    feature = np.ones((2, *head.input_shape[1:]), np.float32)
    np.testing.assert_array_equal(head(feature, training=True), head(feature, training=False))


def test_the_combined_model_opens_with_plain_keras(tmp_path):
    model = grow(network(4), network(8, seed=1))
    model.model.save(tmp_path / "student.keras")
    opened = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(opened(X), model.model(X), atol=1e-6)


def test_sequential_models_from_files(tmp_path):
    opened = []
    for width in (4, 8):
        keras.utils.set_random_seed(width)
        layers = [keras.Input((16, 16, 3)), keras.layers.Conv2D(width, 3, padding="same", name="last")]
        layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5, name="head")]
        keras.Sequential(layers).save(tmp_path / f"{width}.keras")
        model = keras.models.load_model(tmp_path / f"{width}.keras")
        opened.append(KerasNetwork(model, name=str(width)).with_preprocessing(RAW))
    student, teacher = opened
    outputs = grow(student, teacher).compute({"x": X}, taps=[PROJECTED])
    kernel, bias = teacher.model.get_layer("head").get_weights()
    expected = outputs.features[PROJECTED].numpy().mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)


def test_a_layer_of_a_nested_model_is_refused():
    with pytest.raises(ModelError, match=r"needs the teacher .* as a graph of layers") as caught:
        grow(network(4), network(8, nested=True), teacher_tap="block/last")
    assert "teacher_layer=NAME" in caught.value.hint


def test_sizes_that_do_not_divide_are_refused():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    flow = keras.layers.Conv2D(4, 6, name="last")(inputs)
    odd = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(flow)))
    with pytest.raises(ModelError, match="neither divides the other"):
        grow(KerasNetwork(odd, name="odd").with_preprocessing(RAW), network(8))


def test_a_combined_student_can_be_combined_again():
    teacher = network(8, seed=1)
    twice = grow(grow(network(4), teacher), teacher, student_tap=PROJECTED)
    outputs = twice.compute({"x": X}, taps=[f"{PROJECTED}_2"])
    assert outputs.features[f"{PROJECTED}_2"].shape == (3, 4, 4, 16)


def test_the_teachers_noise_and_regularization_are_dropped():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((16, 16, 3))
    flow = keras.layers.Conv2D(8, 3, padding="same", name="last")(inputs)
    flow = keras.layers.GlobalAveragePooling2D()(keras.layers.GaussianNoise(1.0)(flow))
    head = keras.layers.Dense(5, activity_regularizer="l2", kernel_regularizer="l2")
    teacher = KerasNetwork(keras.Model(inputs, head(flow)), name="teacher").with_preprocessing(RAW)
    model = grow(network(4, pools=0), teacher)
    assert not model.has_regularization
    classifier = model.model.get_layer("teacher_classifier")
    feature = np.ones((2, *classifier.input_shape[1:]), np.float32)
    np.testing.assert_array_equal(classifier(feature, training=True), classifier(feature, training=False))
