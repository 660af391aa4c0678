"""Semantic calibration against the published code."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from published import Case

from kdcli.loss import Given
from kdcli.losses import make


@pytest.mark.parametrize("number", [0])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("semckd", number, dtype, "semantic_calibration")
    students, teachers = case.several("student"), case.several("teacher")
    loss = make("semantic_calibration", soft=case.hyper("soft"), factor=int(case.hyper("factor")))
    shapes = [tuple(feature.shape[1:] for feature in side) for side in (students, teachers)]
    parts = loss.build(Given(*shapes, batch=students[0].shape[0]))
    owns, weights = parts.trained, {}
    for name, networks in (("query", owns["queries"]), ("key", owns["keys"])):
        for place, layers in enumerate(networks):
            for number, layer in enumerate(layers, start=1):
                weights[f"w_lin_{name}_{place}_linear{number}"] = layer.kernel
                weights[f"w_bias_{name}_{place}_linear{number}"] = layer.bias
    for ours, row in enumerate(owns["regressors"]):
        for theirs, layers in enumerate(row):
            for number, layer in enumerate(layers):
                at = f"regressor{ours}{theirs}_regressor_{number}"
                if isinstance(layer, keras.layers.Conv2D):
                    weights[f"w_conv_{at}"] = layer.kernel
                elif layer.weights:
                    weights |= {f"w_gamma_{at}": layer.gamma, f"w_beta_{at}": layer.beta}
    forms = ("_hwio", "_kernel")
    assert {name for name in case.arrays if name.startswith("w_") and not name.endswith(forms)} == set(weights)
    case.check(
        lambda *features: loss(student=list(features), teacher=teachers, parts=parts),
        inputs=[f"student{place}" for place in range(len(students))],
        **weights,
    )
    attention = loss._attention(students, teachers, owns)
    np.testing.assert_allclose(attention, case.arrays["attention"], rtol=1e-4 if dtype == "float32" else 1e-9)


OURS, THEIRS = ((6, 6, 2), (3, 3, 4)), ((5, 5, 3), (4, 7, 2), (2, 2, 5))


def built(ours=OURS, theirs=THEIRS, size=8, **options):
    keras.utils.set_random_seed(0)
    loss = make("semantic_calibration", **options)
    return loss, loss.build(Given(ours, theirs, batch=size))


def batch(ours=OURS, theirs=THEIRS, size=8, scale=1.0):
    random = np.random.default_rng(0)

    def draw(shapes):
        return [tf.constant(scale * random.normal(size=(size, *shape)), tf.float32) for shape in shapes]

    return {"student": draw(ours), "teacher": draw(theirs)}


def test_lists_may_have_different_lengths_and_maps_any_size():
    loss, parts = built()
    given = batch()
    value = loss(**given, parts=parts)
    assert value.shape == ()
    attention = loss._attention(given["student"], given["teacher"], parts.trained)
    assert attention.shape == (8, 2, 3)
    np.testing.assert_allclose(tf.reduce_sum(attention, axis=-1), np.ones((8, 2)), rtol=1e-6)


def test_one_teacher_layer_gets_all_attention():
    loss, parts = built(theirs=THEIRS[:1])
    given = batch(theirs=THEIRS[:1])
    attention = loss._attention(given["student"], given["teacher"], parts.trained)
    np.testing.assert_array_equal(attention, np.ones((8, 2, 1)))


def test_soft_flattens_the_attention():
    spreads = []
    for soft in (0.25, 1.0, 4.0):
        loss, parts = built(soft=soft)
        given = batch()
        spreads.append(
            float(tf.math.reduce_std(loss._attention(given["student"], given["teacher"], parts.trained)))
        )
    assert spreads[0] > 1.5 * spreads[1] > 3 * spreads[2]


def test_factor_sets_the_size_of_queries_and_keys():
    _, parts = built(factor=2)
    assert parts.trained["keys"][0][-1].units == 4
    _, parts = built(factor=100)
    assert parts.trained["queries"][1][-1].units == 1


def test_missing_similarities_of_a_smaller_batch_are_zero():
    loss, parts = built()
    given = batch(size=5)
    assert np.isfinite(loss(**given, parts=parts).numpy())
    padded = {
        side: [tf.pad(feature, ((0, 3), (0, 0), (0, 0), (0, 0))) for feature in given[side]] for side in given
    }
    ours, theirs = (
        loss._attention(some["student"], some["teacher"], parts.trained)[:5] for some in (given, padded)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_larger_batch_is_refused():
    loss, parts = built(size=4)
    with pytest.raises(ValueError, match="semantic_calibration was built for batches of 4, got 8 examples"):
        loss(**batch(), parts=parts)


def test_the_teacher_gets_no_gradient_and_every_part_does():
    loss, parts = built()
    given = batch()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(given["teacher"])
        value = loss(**given, parts=parts)
    assert tape.gradient(value, given["teacher"]) == [None] * 3
    for variable in parts.trainable_variables:
        slope = tape.gradient(value, variable.value)
        assert slope is not None and np.isfinite(slope).all()
        assert variable.ndim == 1 or np.abs(slope).max() > 0, variable.path
    del tape


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
@pytest.mark.parametrize("size", [1, 8])
def test_extreme_features_stay_finite(scale, size):
    loss, parts = built()
    given = batch(scale=scale, size=size)
    with tf.GradientTape() as tape:
        tape.watch(given["student"])
        value = loss(**given, parts=parts)
    assert np.isfinite(value.numpy()).all()
    assert all(np.isfinite(slope.numpy()).all() for slope in tape.gradient(value, given["student"]))
