"""Knowledge review against the published code."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from published import Case, mean

from kdcli.loss import Given
from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2])
def test_distance_agrees_with_the_published_code(number, dtype):
    case = Case("reviewkd", number, dtype, "review")
    teachers, loss = case.several("teacher"), make("review")
    case.check(
        lambda *students: mean(loss, student=list(students), teacher=teachers),
        inputs=[f"student{level}" for level in range(len(teachers))],
    )


@pytest.mark.parametrize("number", [4])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("reviewkd", number, dtype, "review")
    teachers = [*case.several("teacher"), case["teacher_pooled"]]
    names = [*(f"student{level}" for level in range(len(teachers) - 1)), "student_pooled"]
    loss = make("review")
    shapes = (tuple(case[name].shape[1:] for name in names), tuple(teacher.shape[1:] for teacher in teachers))
    parts = loss.build(Given(*shapes))
    weights = {}
    # The published code counts from the deepest level.
    for level, fusion in enumerate(reversed(parts.trained["fusions"])):
        weights[f"w_conv_abfs_{level}_conv1_0"] = fusion["own"].kernel
        weights[f"w_conv_abfs_{level}_conv2_0"] = fusion["out"].kernel
        for place, scale in ((1, fusion["own_scale"]), (2, fusion["out_scale"])):
            weights[f"w_gamma_abfs_{level}_conv{place}_1"] = scale.gamma
            weights[f"w_beta_abfs_{level}_conv{place}_1"] = scale.beta
        if level:
            weights[f"w_conv_abfs_{level}_att_conv_0"] = fusion["attention"].kernel
            weights[f"w_bias_abfs_{level}_att_conv_0"] = fusion["attention"].bias
    assert {name for name in case.arrays if name.startswith("w_") and not name.endswith("_hwio")} == set(weights)
    case.check(
        lambda *students: mean(loss, student=list(students), teacher=teachers, parts=parts),
        inputs=names,
        **weights,
    )


OURS, THEIRS = ((8, 8, 3), (4, 4, 5), (6,)), ((4, 4, 2), (2, 2, 4), (7,))


def built(ours=OURS, theirs=THEIRS, seed=0):
    keras.utils.set_random_seed(seed)
    loss = make("review")
    return loss, loss.build(Given(ours, theirs))


def batch(ours=OURS, theirs=THEIRS, size=4, seed=0, scale=1.0):
    random = np.random.default_rng(seed)

    def draw(shapes):
        return [tf.constant(scale * random.normal(size=(size, *shape)), tf.float32) for shape in shapes]

    return {"student": draw(ours), "teacher": draw(theirs)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (((4, 4, 3), (2, 2, 3)), ((8, 8, 4), (4, 4, 4))),
        (((6, 5, 3), (3, 2, 3)), ((3, 7, 4), (2, 3, 4))),
        (((8, 8, 3),), ((8, 8, 3),)),
        (((6,),), ((9,),)),
    ],
)
def test_it_takes_maps_of_all_sizes(ours, theirs):
    loss, parts = built(ours, theirs)
    value = loss(**batch(ours, theirs), parts=parts)
    assert value.shape == (4,)
    assert (value.numpy() > 0).all()


def test_a_deeper_level_reaches_the_shallow_ones_through_attention():
    loss, parts = built()
    given, (shallow, *deeper) = batch(), parts.trained["fusions"]
    # What the deeper levels say to their own teachers no longer depends on the student.
    for fusion in deeper:
        fusion["out"].kernel.assign(0.0 * fusion["out"].kernel)
    with tf.GradientTape() as tape:
        tape.watch(given["student"])
        value = loss(**given, parts=parts)
    assert all(np.abs(slope.numpy()).max() > 1e-6 for slope in tape.gradient(value, given["student"]))
    assert "attention" in shallow and "attention" not in deeper[-1]


def test_without_parts_features_are_compared_directly():
    loss, shapes = make("review"), ((8, 8, 3), (1, 1, 3), (6,))
    given = batch(shapes, shapes)
    watched = [*given["student"], *given["teacher"]]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = loss(**given)
    errors = [(ours - theirs).numpy() for ours, theirs in zip(given["student"], given["teacher"], strict=True)]
    squares = [np.mean(np.square(error), axis=tuple(range(1, error.ndim))) for error in errors]
    for weight, side in ((1 / 2, 4), (1 / 4, 2), (1 / 8, 1)):
        windows = errors[0].reshape(4, side, 8 // side, side, 8 // side, 3).mean(axis=(2, 4))
        squares[0] = squares[0] + weight * np.mean(np.square(windows), axis=(1, 2, 3))
    squares[0] = squares[0] / (1 + 7 / 8)
    np.testing.assert_allclose(value, sum(squares), rtol=1e-5)
    slopes = tape.gradient(value, watched)
    assert all(slope is not None for slope in slopes[:3]) and slopes[3:] == [None] * 3
    with pytest.raises(ValueError, match="a direct call needs equal shapes"):
        loss(**batch())


def test_batch_statistics_are_used_and_stored():
    loss, parts = built()
    mean = parts.trained["fusions"][0]["own_scale"].moving_mean
    assert not mean.numpy().any()
    first = loss(**batch(), parts=parts).numpy()
    assert mean.numpy().any()
    np.testing.assert_array_equal(loss(**batch(), parts=parts), first)
    assert any(variable is mean for variable in parts.variables)
    assert not any(variable is mean for variable in parts.trainable_variables)


def test_the_teacher_gets_no_gradient_and_every_part_does():
    loss, parts = built()
    given = batch()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(given["teacher"])
        value = loss(**given, parts=parts)
    assert tape.gradient(value, given["teacher"]) == [None] * 3
    slopes = tape.gradient(value, [variable.value for variable in parts.trainable_variables])
    assert all(slope is not None for slope in slopes)
    del tape


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e4])
@pytest.mark.parametrize("size", [1, 4])
def test_extreme_features_stay_finite(scale, size):
    loss, parts = built()
    given = batch(scale=scale, size=size)
    with tf.GradientTape() as tape:
        tape.watch(given["student"])
        value = loss(**given, parts=parts)
    assert np.isfinite(value.numpy()).all()
    assert all(np.isfinite(slope.numpy()).all() for slope in tape.gradient(value, given["student"]))


def test_fusions_are_at_most_512_channels_wide():
    _, parts = built(((2, 2, 600),), ((2, 2, 3),))
    assert parts.trained["fusions"][0]["own"].filters == 512
    _, parts = built(((2, 2, 600), (2, 2, 5)), ((2, 2, 3), (2, 2, 3)))
    assert parts.trained["fusions"][0]["own"].filters == 5
