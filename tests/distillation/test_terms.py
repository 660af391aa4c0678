"""Terms with parts, inside an objective: the arguments of a loss, compiled and restored."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.data.feed import Batch
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import LiveTargets
from kdcli.distillation.terms import build_terms, list_teacher_taps
from kdcli.jobs.preflight import refuse_idle_terms
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing

EXAMPLES = 20
X, Y = blobs(EXAMPLES)
BLOCKS = {"student_layer": ["block1", "block2"], "teacher_layer": ["block1", "block2"]}


def network(width, seed):
    keras.utils.set_random_seed(seed)
    flow = inputs = keras.Input((8, 8, 1))
    for number in (1, 2):
        flow = keras.layers.Conv2D(width * number, 3, padding="same", activation="relu", name=f"block{number}")(
            flow
        )
        # XLA has no gradient of a maximum that is the same each time.
        flow = keras.layers.AveragePooling2D(2)(flow)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(flow)))
    preparation = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32")
    return KerasNetwork(model, name="given").with_preprocessing({"x": preparation})


def objective(*losses, seed=0):
    student, teacher = network(2, 1), network(4, 2)
    keras.utils.set_random_seed(seed)
    terms = build_terms(losses, student=student, teacher=teacher, examples=EXAMPLES, batch=6, seed=seed)
    return Objective(terms, student=student, targets=LiveTargets(teacher, list_teacher_taps(terms))), teacher


def batch(rows):
    rows = tf.convert_to_tensor(rows, tf.int64)
    inputs = {"x": tf.gather(tf.constant(X), rows)}
    return Batch(inputs, tf.gather(tf.constant(Y), rows), None, rows, tf.constant(0), 6)


def stepping(made, *, jit=False):
    def step(rows):
        variables = [variable.value for variable in made.trainable_variables]
        with tf.GradientTape() as tape:
            total, values = made(batch(rows), tf.constant(0.0))
        gradients = tape.gradient(total, variables)
        return values, [tf.convert_to_tensor(one) for one in gradients if one is not None]

    return tf.function(step, autograph=False, jit_compile=jit)


def rows(*first):
    return tf.range(6, dtype=tf.int64) + tf.constant(first, tf.int64)


OWNING = {
    "contrastive": make("contrastive", negatives=8, embed=5),
    "adversarial on features": make("adversarial", units=8),
    "adversarial on logits": make("adversarial", on="logits", units=8),
    "review": make("review", **BLOCKS),
    "semantic_calibration": make("semantic_calibration", **BLOCKS),
}
OWNER = pytest.mark.parametrize("loss", OWNING.values(), ids=OWNING)


def values_of(made):
    return [variable.numpy().copy() for variable in made.parts]


# What changes itself in a call, under XLA too.
CHANGING = [OWNING["contrastive"], OWNING["adversarial on logits"]]


@pytest.mark.parametrize(
    ("losses", "jit"), [*(([loss], False) for loss in OWNING.values()), (CHANGING, True)], ids=[*OWNING, "XLA"]
)
def test_restored_terms_continue_bit_for_bit(losses, jit):
    made, _ = objective(*losses)
    step = stepping(made, jit=jit)
    step(rows(0))
    kept = values_of(made)
    values, gradients = step(rows(4))
    assert np.isfinite(values.numpy()).all() and len(gradients) >= len(made.network.trainable_variables) - 2
    after = values_of(made)
    again, _ = objective(*losses, seed=5)
    for variable, array in zip(again.parts, kept, strict=True):
        variable.assign(array)
    for variable, source in zip(again.network.variables, made.network.variables, strict=True):
        variable.assign(source)
    same, same_gradients = stepping(again, jit=jit)(rows(4))
    np.testing.assert_array_equal(same, values)
    for one, other in zip(same_gradients, gradients, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(values_of(again), after, strict=True):
        np.testing.assert_array_equal(one, other)


@OWNER
def test_preflight_does_not_change_the_parts(loss):
    made, teacher = objective(loss)
    kept = values_of(made)
    refuse_idle_terms(made.terms, student=made.network, teacher=teacher, batch=batch(rows(0)))
    for one, other in zip(values_of(made), kept, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_memory_is_of_all_examples_and_moves_where_the_batch_is():
    made, _ = objective(OWNING["contrastive"])
    bank = made.terms[0].parts.kept["memories"][0]["student"]
    before = bank.numpy().copy()
    assert before.shape == (EXAMPLES, 5)
    stepping(made)(rows(7))
    assert np.flatnonzero((bank.numpy() != before).any(axis=1)).tolist() == list(range(7, 13))


def test_losses_on_logits_need_no_layers():
    made, _ = objective(OWNING["adversarial on logits"])
    (term,) = made.terms
    assert (term.pairs, term.projections) == ((), ())
    assert term.parts.kept["discriminators"][0][0].kernel.shape == (3, 8)
    assert list_teacher_taps(made.terms) == ()
    assert made.trainable_variables == made.network.trainable_variables


def test_feature_losses_get_features_in_the_teachers_shape():
    made, teacher = objective(OWNING["adversarial on features"])
    (term,) = made.terms
    channels = teacher.taps[term.pairs[0].teacher][-1]
    assert term.parts.kept["discriminators"][0][0].kernel.shape == (channels, 8)
    assert term.trainable_variables == term.projections[0].variables


def test_all_with_all_losses_get_each_layer_once():
    names = {"student_layer": ["block2", "block2"], "teacher_layer": ["block1", "block2"]}
    made, _ = objective(make("semantic_calibration", **names))
    (term,) = made.terms
    assert term.taps == (("block2",), ("block1", "block2"))
    assert [len(row) for row in term.parts.trained["regressors"]] == [2]
    assert term.parts.trained["queries"][0][0].kernel.shape[0] == 6
    values, _ = stepping(made)(rows(0))
    assert values.numpy()[0] > 0


def test_layer_of_two_pairs_is_passed_twice():
    names = {"student_layer": ["block2", "block2"], "teacher_layer": ["block1", "block2"]}
    made, _ = objective(make("hint", **names))
    assert made.terms[0].taps == (("block2", "block2"), ("block1", "block2"))
    assert np.isfinite(stepping(made)(rows(0))[0]).all()
