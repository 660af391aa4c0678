"""Masked generation against its formula in numpy; the published masks are random."""

from __future__ import annotations

import numpy as np
import pytest
from published import mean

from kdcli.loss import Given
from kdcli.losses import make

SHAPE = (5, 4, 3)


def built(loss, *, seed=7):
    return loss.build(Given((SHAPE,), (SHAPE,), seed=seed))


def inputs(dtype="float32", batch=2):
    random = np.random.default_rng(0)
    return [random.normal(size=(batch, *SHAPE)).astype(dtype) for _ in range(2)]


def drawn(loss, seed, batch=2, step=0):
    """The mask of a call, from the state that it starts with."""
    import keras

    generator = keras.random.SeedGenerator(seed)
    for _ in range(step + 1):
        numbers = keras.random.uniform((batch, *SHAPE[:2], 1), seed=generator, dtype="float32")
    return np.asarray(numbers) >= loss.mask


def convolved(feature, layer):
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    padded = np.pad(feature, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = feature.shape[1:3]
    found = np.zeros((*feature.shape[:3], kernel.shape[-1])) + bias
    for row in range(3):
        for column in range(3):
            found += padded[:, row : row + height, column : column + width] @ kernel[row, column]
    return found


def by_hand(loss, student, teacher, layers, mask):
    first, _, second = layers
    generated = convolved(np.maximum(convolved(student * mask, first), 0.0), second)
    return np.sum(np.square(generated - teacher), axis=(1, 2, 3))


def test_value_and_gradient_agree_with_the_formula(dtype):
    import tensorflow as tf

    loss = make("masked_generative")
    parts = built(loss)
    student, teacher = inputs(dtype)
    (layers,) = parts.trained["generators"]
    mask = drawn(loss, 7)
    watched = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = mean(loss, student=watched, teacher=teacher, parts=parts)
    slope = tape.gradient(value, watched).numpy()
    student, teacher = student.astype("float64"), teacher.astype("float64")
    bound = 1e-10 if dtype == "float64" else 1e-5
    assert float(value) == pytest.approx(by_hand(loss, student, teacher, layers, mask).mean(), rel=bound)
    assert not slope[np.broadcast_to(~mask, slope.shape)].any()
    for place in [(0, 1, 2, 0), (1, 4, 3, 2), (0, 0, 0, 1), (1, 2, 1, 1)]:
        moved = np.zeros_like(student)
        moved[place] = 1e-6
        ends = [by_hand(loss, student + s * moved, teacher, layers, mask).mean() for s in (1, -1)]
        assert slope[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-3 * float(np.abs(slope).max()))


def test_masks_change_at_every_call_and_follow_the_seed():
    student, teacher = inputs()
    loss = make("masked_generative")
    parts, others = built(loss), built(loss, seed=8)
    (layers,) = parts.trained["generators"]
    for layer, other in zip(layers, others.trained["generators"][0], strict=True):
        other.set_weights(layer.get_weights())
    calls = [loss(student=student, teacher=teacher, parts=parts).numpy() for _ in range(3)]
    for step, found in enumerate(calls):
        mask = drawn(loss, 7, step=step)
        assert found == pytest.approx(by_hand(loss, student, teacher, layers, mask), rel=1e-5)
    assert not np.allclose(calls[0], calls[1])
    assert not np.allclose(loss(student=student, teacher=teacher, parts=others).numpy(), calls[0])


def test_a_restored_state_draws_the_same_mask_again():
    student, teacher = inputs()
    loss = make("masked_generative")
    parts = built(loss)
    saved = [variable.numpy() for variable in parts.variables]
    first = loss(student=student, teacher=teacher, parts=parts).numpy()
    for variable, value in zip(parts.variables, saved, strict=True):
        variable.assign(value)
    assert np.array_equal(loss(student=student, teacher=teacher, parts=parts).numpy(), first)
    (state,) = [variable for variable in parts.variables if "seed" in variable.path]
    assert not state.trainable


@pytest.mark.parametrize("share", [0.0, 0.65, 1.0])
def test_mask_is_the_fraction_of_masked_positions(share):
    import tensorflow as tf

    loss = make("masked_generative", mask=share)
    shape = (40, 40, 2)
    parts = loss.build(Given((shape,), (shape,)))
    (layers,) = parts.trained["generators"]
    # With a generator that passes on its middle pixel, what is seen is the mask itself.
    for layer in (layers[0], layers[2]):
        kernel = np.zeros(layer.kernel.shape, "float32")
        kernel[1, 1] = np.eye(2)
        layer.set_weights([kernel, np.zeros(2, "float32")])
    ones = tf.ones((2, *shape))
    hidden = loss(student=ones, teacher=ones, parts=parts).numpy() / np.prod(shape)
    assert hidden == pytest.approx(share, abs=0.04)
    assert share in (0.0, 1.0) or hidden[0] != hidden[1]


def test_masks_change_inside_a_compiled_step():
    import tensorflow as tf

    student, teacher = inputs()
    loss = make("masked_generative")
    parts = built(loss)
    step = tf.function(lambda: loss(student=student, teacher=teacher, parts=parts), autograph=False)
    assert not np.allclose(step().numpy(), step().numpy())
