"""Adversarial matching: no published values, but the expected behaviour of both sides."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.errors import UsageError
from kdcli.loss import Given
from kdcli.losses import make
from kdcli.losses.adversarial import _score


def built(shape=(4,), seed=0, **options):
    keras.utils.set_random_seed(seed)
    loss = make("adversarial", **options)
    return loss, loss.build(Given((shape,), (shape,)))


def batch(shape=(4,), size=6, seed=0, scale=1.0):
    random = np.random.default_rng(seed)
    student, teacher = (tf.constant(scale * random.normal(size=(size, *shape)), tf.float32) for _ in range(2))
    return {"student": student, "teacher": teacher}


def scores(parts, feature):
    return _score(parts.kept["discriminators"][0], feature).numpy()


def copies(parts):
    return [variable.numpy().copy() for variable in parts.variables]


def learned(parts):
    """The discriminator's variables that are not the optimizer's."""
    return [weight for layer in parts.kept["discriminators"][0] for weight in layer.trainable_variables]


def test_value_is_the_discriminators_probability_before_its_step():
    loss, parts = built()
    given = batch()
    before = scores(parts, given["student"])
    value = loss(**given, parts=parts)
    np.testing.assert_allclose(value, np.log1p(np.exp(-before)), rtol=1e-5)
    assert (scores(parts, given["student"]) != before).all()


@pytest.mark.parametrize("penalty", [0.0, 2.0])
@pytest.mark.parametrize("shape", [(4,), (5, 4), (3, 2, 4)])
def test_discriminator_follows_its_own_gradient(shape, penalty):
    loss, parts = built(shape, penalty=penalty)
    given = batch(shape)
    layers, weights = parts.kept["discriminators"][0], learned(parts)
    with tf.GradientTape() as tape:
        with tf.GradientTape() as inner:
            inner.watch(given["teacher"])
            true = tf.reduce_sum(_score(layers, given["teacher"]))
        steepness = tf.reduce_sum(tf.square(inner.gradient(true, given["teacher"]))) / 6
        false = _score(layers, given["student"])
        error = -tf.reduce_mean(tf.math.log_sigmoid(_score(layers, given["teacher"])))
        error += -tf.reduce_mean(tf.math.log_sigmoid(-false)) + penalty / 2 * steepness
    slopes = tape.gradient(error, [weight.value for weight in weights])
    before = [weight.numpy().copy() for weight in weights]
    loss(**given, parts=parts)
    # Adam's first step: the learning rate against the sign of the gradient, less where that is tiny.
    for weight, old, slope in zip(weights, before, slopes, strict=True):
        slope = slope.numpy()
        moved = -1e-3 * slope / (np.abs(slope) + 1e-7 / np.sqrt(1 - 0.999))
        np.testing.assert_allclose(weight.numpy() - old, moved, atol=2e-5)
        assert np.abs(moved).max() > 5e-4


def test_student_and_discriminator_get_separate_gradients():
    loss, parts = built()
    given = batch()
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = loss(**given, parts=parts)
    slopes = tape.gradient(value, given)
    assert slopes["teacher"] is None
    # As if the discriminator stood still.
    _, still = built()
    with tf.GradientTape() as tape:
        tape.watch(given["student"])
        wanted = tf.math.softplus(-_score(still.kept["discriminators"][0], given["student"]))
    np.testing.assert_allclose(slopes["student"], tape.gradient(wanted, given["student"]), rtol=1e-5, atol=1e-8)
    assert parts.trainable_variables == []


def test_the_learning_rate_may_change():
    change = {"from": 0.1, "to": 0.001, "over": 0.5}
    steps = []
    for progress in (0.0, 0.5):
        loss, parts = built(learning_rate=change)
        before = learned(parts)[-1].numpy().copy()
        loss(**batch(), progress=tf.constant(progress), parts=parts)
        steps.append(float(np.abs(learned(parts)[-1].numpy() - before).max()))
    assert steps == pytest.approx([0.1, 0.001], rel=0.05)


def test_a_restored_state_gives_the_same_steps_to_the_last_bit():
    def stepping(loss, parts):
        def step(student, teacher):
            with tf.GradientTape() as tape:
                tape.watch(student)
                value = loss(student=student, teacher=teacher, parts=parts)
            return value, tape.gradient(value, student)

        return tf.function(step, autograph=False)

    loss, parts = built()
    step = stepping(loss, parts)
    step(**batch())
    kept = copies(parts)
    wanted = [[tensor.numpy() for tensor in step(**batch(seed=seed))] for seed in (1, 2)]
    end = copies(parts)
    _, parts = built(seed=7)
    for variable, value in zip(parts.variables, kept, strict=True):
        variable.assign(value)
    step = stepping(loss, parts)
    for seed, values in zip((1, 2), wanted, strict=True):
        for found, value in zip(step(**batch(seed=seed)), values, strict=True):
            np.testing.assert_array_equal(found, value)
    for found, value in zip(copies(parts), end, strict=True):
        np.testing.assert_array_equal(found, value)


INPUTS = np.random.default_rng(0).normal(size=(512, 3)).astype("float32")
MIXING = np.random.default_rng(1).normal(size=(3, 4))
# Not of the same mean, spread or shape as what a fresh student says.
ANSWERS = (1.5 * np.tanh(INPUTS @ MIXING) + [1, -1, 0.5, 0]).astype("float32")


def contest(steps, *, frozen):
    """A student against a discriminator; both as they are afterwards."""
    loss, parts = built()
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)])
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(student.trainable_variables)

    @tf.function(autograph=False)
    def step(inputs, teacher):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(student=student(inputs, training=True), teacher=teacher, parts=parts))
        slopes = tape.gradient(value, [weight.value for weight in student.trainable_variables])
        if not frozen:
            optimizer.apply(slopes)

    random = np.random.default_rng(2)
    for _ in range(steps):
        rows = random.choice(512, 64, replace=False)
        step(tf.constant(INPUTS[rows]), tf.constant(ANSWERS[rows]))
    return student, parts


def distances(student):
    """Between student and teacher: of the means, and of the covariances."""
    said = student(INPUTS).numpy()
    return np.abs(said.mean(0) - ANSWERS.mean(0)).max(), np.abs(np.cov(said.T) - np.cov(ANSWERS.T)).max()


def told_apart(student, parts):
    true, false = scores(parts, ANSWERS) > 0, scores(parts, student(INPUTS)) <= 0
    return (true.mean() + false.mean()) / 2


def test_discriminator_learns_to_distinguish_a_frozen_student():
    assert told_apart(*contest(0, frozen=True)) < 0.6
    assert told_apart(*contest(150, frozen=True)) > 0.8


def test_student_approaches_the_teachers_distribution():
    start, _ = contest(0, frozen=True)
    student, parts = contest(800, frozen=False)
    for now, before in zip(distances(student), distances(start), strict=True):
        assert now < before / 3
    assert told_apart(student, parts) < 0.75


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_extreme_features_stay_finite(scale):
    loss, parts = built()
    given = batch(scale=scale)
    for _ in range(3):
        with tf.GradientTape() as tape:
            tape.watch(given["student"])
            value = loss(**given, parts=parts)
        assert np.isfinite(value.numpy()).all()
        assert np.isfinite(tape.gradient(value, given["student"]).numpy()).all()
    assert all(np.isfinite(array).all() for array in copies(parts))


def test_pairs_have_a_discriminator_each_and_are_summed():
    shapes = ((4,), (3, 3, 2))
    keras.utils.set_random_seed(0)
    loss = make("adversarial", units=8)
    parts = loss.build(Given(shapes, shapes))
    given = [batch(shape, seed=number) for number, shape in enumerate(shapes)]
    wanted = sum(
        np.log1p(np.exp(-_score(layers, one["student"]).numpy()))
        for layers, one in zip(parts.kept["discriminators"], given, strict=True)
    )
    value = loss(**{side: [one[side] for one in given] for side in ("student", "teacher")}, parts=parts)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_logits_have_no_layers():
    with pytest.raises(UsageError, match="teacher_layer and student_layer need on: features"):
        make("adversarial", on="logits", teacher_layer="block1")
    assert make("adversarial", on="logits").on_logits
    assert not make("adversarial", teacher_layer="block1").on_logits


def test_missing_arguments_are_named():
    loss, parts = built()
    with pytest.raises(ValueError, match="a run adds a projection, a direct call needs equal shapes"):
        loss(student=tf.zeros((6, 3)), teacher=tf.zeros((6, 4)), parts=parts)
    with pytest.raises(ValueError, match="adversarial needs its parts"):
        make("adversarial")(**batch())
