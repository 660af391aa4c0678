"""Preflight: students equal to their teacher and terms without gradient are refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.data.feed import Batch
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.distillation.terms import build_terms
from kdcli.errors import ModelError
from kdcli.jobs.preflight import refuse_idle_terms, refuse_same
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.zoo import Cnn

X, Y = blobs(90)


def network(model):
    preparation = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32")
    return KerasNetwork(model, name="t.keras").with_preprocessing({"x": preparation})


def cnn(seed=0, **options):
    keras.utils.set_random_seed(seed)
    return network(Cnn(width=2, blocks=2, **options).build((8, 8, 1), 3))


def examples(x=X, y=Y):
    return splits_from_arrays({"x": x, "y": y}, name="d").train


def reading_rows(order=(0, 1, 2)):
    """A teacher without errors: the brightest rows are the class."""
    inputs = keras.Input((8, 8, 1))
    rows = keras.ops.mean(inputs, axis=(2, 3))
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, dense(rows))
    kernel = np.zeros((8, 3), np.float32)
    for label, column in enumerate(order):
        row = 1 + label * 2
        kernel[row : row + 2, column] = 10.0
    dense.set_weights([kernel])
    return network(model)


def constant(label):
    """A teacher that always predicts one class."""
    inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Dense(3, kernel_initializer="zeros")
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.bias.assign(np.eye(3, dtype=np.float32)[label])
    return network(model)


def batch():
    return Batch({"x": tf.constant(X[:12])}, tf.constant(Y[:12]), None, tf.range(12), tf.constant(0), 12)


def check_terms(*losses, student, teacher=None):
    terms = build_terms(losses, student=student, teacher=teacher)
    refuse_idle_terms(terms, student=student, teacher=teacher, batch=batch())


def values(found):
    return [np.array(v.numpy()) for v in found.variables]


def test_a_student_that_equals_its_teacher_is_refused():
    with pytest.raises(ModelError, match="the same model with the same weights: there is") as caught:
        refuse_same(cnn(0), cnn(0))
    assert "student.start=fresh" in caught.value.hint


def test_a_student_with_other_weights_or_architecture_passes():
    refuse_same(cnn(0), cnn(1))
    refuse_same(cnn(0), network(Cnn(width=3).build((8, 8, 1), 3)))


def test_a_student_with_one_different_weight_passes():
    student = cnn(0)
    student.variables[-1].assign(student.variables[-1] + 1e-6)
    refuse_same(cnn(0), student)


def test_terms_with_a_gradient_pass():
    hint = make("hint", student_layer="block1", teacher_layer="block2")
    check_terms(make("labels"), make("soft_targets"), hint, student=cnn(1), teacher=cnn(0))


def beginning_with_pooling():
    """A student with a feature before any weight, and statistics that a training pass changes."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.AveragePooling2D(2, name="before")(inputs)
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(x))
    return network(keras.Model(inputs, keras.layers.Dense(3)(x)))


def idle(name):
    return make("hint", name=name, student_layer="before", teacher_layer="block2")


def test_a_term_whose_gradient_does_not_reach_the_student_is_refused_by_name():
    with pytest.raises(ModelError, match=r"losses\.idle has no gradient in the student") as caught:
        check_terms(make("labels"), idle("idle"), student=beginning_with_pooling(), teacher=cnn(0))
    assert "it would train nothing" in caught.value.message
    assert "kd losses show hint" in caught.value.hint


def test_a_term_with_a_gradient_of_zero_is_refused():
    student = constant(0)
    with pytest.raises(ModelError, match=r"losses\.logit_mse has no gradient in the student"):
        check_terms(make("logit_mse"), student=student, teacher=constant(0))


def test_a_frozen_student_is_refused():
    student = cnn(1)
    student.model.trainable = False
    with pytest.raises(ModelError, match=r"the student \(t\.keras\) has nothing to train: every layer is frozen"):
        check_terms(make("labels"), student=student)


def test_a_term_in_its_warmup_passes():
    check_terms(make("labels", warmup=0.5), student=cnn(1))


def test_the_student_is_unchanged():
    student = cnn(1, dropout=0.5)
    before = values(student)
    check_terms(make("labels"), make("soft_targets"), student=student, teacher=cnn(0))
    for ours, value in zip(values(student), before, strict=True):
        np.testing.assert_array_equal(ours, value)


def test_the_student_is_unchanged_when_a_term_is_refused():
    student = beginning_with_pooling()
    before = values(student)
    with pytest.raises(ModelError, match=r"losses\.hint has no gradient"):
        check_terms(idle("hint"), student=student, teacher=cnn(0))
    for ours, value in zip(values(student), before, strict=True):
        np.testing.assert_array_equal(ours, value)
