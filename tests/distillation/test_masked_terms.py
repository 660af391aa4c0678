"""Masked tokens: a mask in the data reaches the terms."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.data.feed import Batch
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import LiveTargets
from kdcli.distillation.terms import build_terms, list_teacher_taps
from kdcli.errors import ModelError, UsageError
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing

WORDS = np.array([[5, 3, 0, 0], [1, 2, 3, 4], [7, 0, 0, 0]], np.int32)


def reader(width, seed):
    """A network for token ids, 0 for padding: embedding, attention, the mean over the tokens."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,), dtype="int32", name="words")
    states = keras.layers.Embedding(8, width, name="states")(inputs)
    attended = keras.layers.MultiHeadAttention(2, width, name="attention")(states, states)
    pooled = keras.layers.GlobalAveragePooling1D(name="pooling")(attended)
    made = KerasNetwork(keras.Model(inputs, keras.layers.Dense(3)(pooled)), name="reader")
    return made.with_preprocessing({"words": Preprocessing((4,), "int32", (4,), "int32")})


@pytest.mark.parametrize(
    ("kind", "layer", "options"),
    [("hidden_states", "states", {}), ("attention_maps", "attention/scores", {"given": "probabilities"})],
    ids=str,
)
def test_padding_in_an_input_of_the_data_masks_a_term(kind, layer, options):
    student, teacher = reader(3, 0), reader(3, 1)
    loss = make(kind, teacher_layer=layer, student_layer=layer, mask_input="words", **options)
    terms = build_terms([loss], student=student, teacher=teacher)
    targets = LiveTargets(teacher, list_teacher_taps(terms))
    given = Batch({"words": tf.constant(WORDS)}, tf.zeros(3, tf.int64), None, tf.range(3), tf.constant(0), 3)
    found = float(Objective(terms, student=student, targets=targets)(given, tf.constant(0.0))[1][0])
    sides = [side.compute(given.inputs, taps=[layer]).features[layer] for side in (student, teacher)]
    masked = loss(student=sides[0], teacher=sides[1], mask=WORDS != 0)
    assert found == pytest.approx(float(np.mean(masked)), rel=1e-5)
    assert found != pytest.approx(float(np.mean(loss(student=sides[0], teacher=sides[1]))), rel=1e-3)


def test_missing_mask_input_is_refused():
    loss = make("hidden_states", teacher_layer="states", student_layer="states", mask_input="word")
    with pytest.raises(UsageError, match="no input 'word'; did you mean 'words'"):
        build_terms([loss], student=reader(3, 0), teacher=reader(3, 1))


def test_mask_of_another_shape_is_refused_at_the_first_call():
    student, teacher = reader(3, 0), reader(3, 1)
    layers = {"teacher_layer": "pooling", "student_layer": "pooling"}
    terms = build_terms([make("hidden_states", mask_input="words", **layers)], student=student, teacher=teacher)
    objective = Objective(terms, student=student, targets=LiveTargets(teacher, list_teacher_taps(terms)))
    given = Batch({"words": tf.constant(WORDS)}, tf.zeros(3, tf.int64), None, tf.range(3), tf.constant(0), 3)
    with pytest.raises(ModelError, match=r"losses.hidden_states: a mask of shape \(3, 4\) does not fit \(3,\)"):
        objective(given, tf.constant(0.0))
