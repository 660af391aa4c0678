"""Terms that use the teacher's batch normalisation, and layers of terms that learn with the student."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from four_networks import SHAPE, network, small

from kdcli.data.feed import Batch
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import LiveTargets
from kdcli.distillation.terms import build_terms, list_teacher_taps
from kdcli.errors import ModelError
from kdcli.losses import make
from kdcli.losses.feature_overhaul import compute_margins


def moved(teacher):
    """A teacher whose normalisations have scales and shifts that differ from channel to channel."""
    random = np.random.default_rng(0)
    for layer in teacher.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(random.uniform(-1, 1, layer.beta.shape))
    return teacher


def term_of(loss, student, teacher):
    (term,) = build_terms([loss], student=student, teacher=teacher)
    return term


@pytest.mark.parametrize("layer", ["block2_normalization", "block2"])
def test_margins_come_from_the_teachers_batch_normalisation(layer):
    teacher = moved(small("cnn", width=3, seed=1))
    loss = make("feature_overhaul", teacher_layer=layer, student_layer="block2_normalization")
    term = term_of(loss, small("cnn"), teacher)
    made = teacher.model.get_layer("block2_normalization")
    (margin,) = term.parts.kept["margins"]
    assert margin.numpy().tolist() == pytest.approx(compute_margins(made.gamma, made.beta))


def test_each_of_several_pairs_has_the_margins_of_its_own_layer():
    teacher = moved(small("cnn", width=3, seed=1))
    term = term_of(make("feature_overhaul"), small("cnn"), teacher)
    assert len(term.pairs) > 1
    for pair, margin in zip(term.pairs, term.parts.kept["margins"], strict=True):
        made = teacher.model.get_layer(pair.teacher)
        assert isinstance(made, keras.layers.BatchNormalization)
        assert margin.numpy().tolist() == pytest.approx(compute_margins(made.gamma, made.beta))


def test_layer_without_batch_normalisation_is_refused_with_a_suggestion():
    loss = make("feature_overhaul", teacher_layer="block2_convolution", student_layer="block2_normalization")
    refused = r"the teacher .* has no batch normalisation at block2_convolution"
    with pytest.raises(ModelError, match=refused) as error:
        term_of(loss, small("cnn"), small("cnn", width=3))
    assert error.value.hint == "--set losses.feature_overhaul.teacher_layer=block3, and a student_layer for it"


def test_a_teacher_without_normalisation_is_refused():
    inputs = keras.Input(SHAPE)
    flow = keras.layers.Conv2D(3, 3, name="only")(inputs)
    plain = network(keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(flow))))
    with pytest.raises(ModelError, match="no batch normalisation at only,") as error:
        term_of(make("feature_overhaul"), small("cnn"), plain)
    assert "kd finds no batch normalisation" in error.value.hint


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("activation_boundary", {}),
        ("feature_overhaul", {}),
        ("factor_transfer", {}),
        ("masked_generative", {}),
        ("hidden_states", {"teacher_layer": "pooling", "student_layer": "pooling"}),
    ],
    ids=str,
)
def test_layers_of_a_term_learn_with_the_student(kind, options):
    student, teacher = small("cnn"), moved(small("cnn", width=3, seed=1))
    terms = build_terms([make(kind, **options)], student=student, teacher=teacher)
    objective = Objective(terms, student=student, targets=LiveTargets(teacher, list_teacher_taps(terms)))
    x = np.random.default_rng(0).integers(0, 255, (8, *SHAPE), dtype=np.uint8)
    given = Batch({"x": tf.constant(x)}, tf.zeros(8, tf.int64), None, tf.range(8), tf.constant(0), 8)
    optimizer = keras.optimizers.Adam(0.01)
    variables = objective.trainable_variables
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            total, _ = objective(given, tf.constant(0.0))
        slopes = tape.gradient(total, [v.value for v in variables], unconnected_gradients="zero")
        optimizer.apply(slopes, variables)
        return total

    kernels = [variable for variable in terms[0].trainable_variables if len(variable.shape) > 1]
    before = [variable.numpy() for variable in kernels]
    values = [float(step()) for _ in range(8)]
    assert values[-1] < values[0]
    assert not any(np.array_equal(old, new.numpy()) for old, new in zip(before, kernels, strict=True))
