"""The compiled step: what is not finite is named and never applied; sums, clipping, XLA."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.augment import Mixup, Shift
from kdcli.data.examples import Examples
from kdcli.data.feed import Feed
from kdcli.data.image_loader import EncodedImage, load_images
from kdcli.data.views import Views
from kdcli.errors import DataError
from kdcli.training.step import GRADIENT_NORM, Stepper

BATCH, STEPS = 8, 4


class Squares:
    """An objective of two terms on one dense layer; `spoil` may break a term of one step."""

    names = ("first", "second")

    def __init__(self, spoil=None) -> None:
        keras.utils.set_random_seed(3)
        self.layer = keras.layers.Dense(3)
        self.layer.build((None, 64))
        self.spoil = spoil or (lambda first, second, outputs, step: (first, second))

    @property
    def trainable_variables(self):
        return self.layer.trainable_variables

    def __call__(self, batch, progress):
        inputs = tf.reshape(tf.cast(batch.inputs["x"], tf.float32) / 255.0, (-1, 64))
        outputs = self.layer(inputs)
        first = tf.reduce_sum(tf.square(outputs)) / batch.total
        second = tf.reduce_sum(tf.abs(outputs - 1.0)) / batch.total
        first, second = self.spoil(first, second, outputs, tf.cast(tf.round(progress * STEPS), tf.int32))
        return first + 2.0 * second, tf.stack([first, second])


def stepper(
    objective, *, rate: float = 0.01, optimizer=None, augments=(), resident_bytes=10**6, **given
) -> Stepper:
    x, y = blobs(32)
    examples = Examples("train", {"x": x}, y, None, np.arange(len(x)))
    optimizer = optimizer or keras.optimizers.SGD(rate)
    optimizer.build(objective.trainable_variables)
    views = Views(augments, seed=0, count=2, examples=len(x))
    return Stepper(
        objective,
        Feed(examples, views, classes=3, resident_bytes=resident_bytes),
        optimizer,
        batch_size=BATCH,
        total_steps=STEPS,
        strategy=tf.distribute.get_strategy(),
        **given,
    )


def run(made: Stepper, steps: int = STEPS, first: int = 0):
    positions = np.arange(steps * BATCH).reshape(steps, BATCH) % 32
    made.start(positions, table=made.feed.views.table(0), slot=0)
    return made.run(len(positions), first=first)


def weights(objective) -> list[np.ndarray]:
    return [variable.value.numpy() for variable in objective.trainable_variables]


def test_block_applies_every_step_and_sums_total_and_terms():
    one, many = Squares(), Squares()
    single = stepper(one)
    sums = {"loss": 0.0, "first": 0.0, "second": 0.0}
    for step in range(STEPS):
        positions = np.arange(step * BATCH, (step + 1) * BATCH)[None]
        single.start(positions, table=single.feed.views.table(0), slot=0)
        result = single.run(len(positions), first=step)
        assert result.steps == 1
        sums = {name: sums[name] + value for name, value in result.sums.items()}
    block = run(stepper(many))
    assert (block.steps, block.not_finite) == (STEPS, None)
    assert block.sums == pytest.approx(sums, rel=1e-6)
    assert sums["loss"] == pytest.approx(sums["first"] + 2 * sums["second"], rel=1e-6)
    for a, b in zip(weights(one), weights(many), strict=True):
        np.testing.assert_array_equal(a, b)


def test_update_equals_plain_gradient_descent():
    objective = Squares()
    x, _ = blobs(32)
    before = weights(objective)
    inputs = tf.constant(x[:BATCH].reshape(BATCH, 64) / 255.0, tf.float32)
    with tf.GradientTape() as tape:
        outputs = objective.layer(inputs)
        loss = tf.reduce_sum(tf.square(outputs)) / BATCH + 2 * tf.reduce_sum(tf.abs(outputs - 1.0)) / BATCH
    gradients = tape.gradient(loss, [variable.value for variable in objective.trainable_variables])
    result = run(stepper(objective, rate=0.1), 1)
    assert result.sums["loss"] == pytest.approx(float(loss), rel=1e-6)
    for was, gradient, now in zip(before, gradients, weights(objective), strict=True):
        np.testing.assert_allclose(now, was - 0.1 * gradient.numpy(), atol=1e-6)


def breaking(kind: str, at: int):
    def spoil(first, second, outputs, step):
        wrong = tf.cast(tf.equal(step, at), tf.float32)
        if kind == "NaN in the first term":
            first = first + tf.math.divide(1.0 - 1.0, 1.0 - wrong)
        elif kind == "infinity in the second term":
            second = second + tf.math.divide(wrong, 1.0 - wrong)
        elif kind == "both":
            first, second = first / (1.0 - wrong), second / (1.0 - wrong)
        elif kind == "gradient":
            # The norm of a zero difference: its value is 0, its gradient is NaN.
            difference = tf.reduce_sum(tf.square(outputs - tf.stop_gradient(outputs)))
            first = first + tf.cond(tf.equal(step, at), lambda: tf.sqrt(difference), lambda: 0.0)
        return first, second

    return spoil


@pytest.mark.parametrize(("at", "jit"), [(0, False), (2, False), (2, True)], ids=["first", "third", "third-xla"])
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("NaN in the first term", "first"),
        ("infinity in the second term", "second"),
        ("both", "first"),
        ("gradient", GRADIENT_NORM),
    ],
)
def test_step_that_is_not_finite_is_not_applied_and_is_named(kind, named, at, jit):
    reference, broken = Squares(), Squares(breaking(kind, at))
    made = stepper(broken, optimizer=keras.optimizers.Adam(0.01), jit=jit)
    result = run(made)
    assert (result.steps, result.not_finite) == (at, named)
    good = stepper(reference, optimizer=keras.optimizers.Adam(0.01), jit=jit)
    if at:
        expected = run(good, at)
        assert result.sums == pytest.approx(expected.sums, rel=1e-6)
    assert all(np.isfinite(value) for value in result.sums.values())
    for is_now, should in zip(weights(broken), weights(reference), strict=True):
        np.testing.assert_array_equal(is_now, should)
    for is_now, should in zip(made.optimizer.variables, good.optimizer.variables, strict=True):
        np.testing.assert_array_equal(is_now.value.numpy(), should.value.numpy())


def test_total_is_named_when_no_term_alone_is_broken():
    class Overflowing(Squares):
        def __call__(self, batch, progress):
            total, terms = super().__call__(batch, progress)
            return total * tf.constant(np.float32(np.inf)), terms

    objective = Overflowing()
    before = weights(objective)
    result = run(stepper(objective))
    assert (result.steps, result.not_finite) == (0, "loss")
    for was, now in zip(before, weights(objective), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_gradient_is_clipped_to_its_global_norm(clip):
    free, clipped = Squares(), Squares()
    before = weights(free)
    run(stepper(free, rate=1.0), 1)
    run(stepper(clipped, rate=1.0, gradient_clip=clip), 1)
    moved = [now - was for now, was in zip(weights(free), before, strict=True)]
    held = [now - was for now, was in zip(weights(clipped), before, strict=True)]
    norm = np.sqrt(sum(np.sum(part**2) for part in moved))
    assert 0.5 < norm < 1e6
    assert np.sqrt(sum(np.sum(part**2) for part in held)) == pytest.approx(min(norm, clip), rel=1e-4)
    for whole, part in zip(moved, held, strict=True):
        np.testing.assert_allclose(part, whole * min(1.0, clip / norm), atol=1e-5)


def test_xla_gives_the_same_losses():
    plain, compiled = Squares(), Squares()
    expected, found = run(stepper(plain)), run(stepper(compiled, jit=True))
    assert found.sums == pytest.approx(expected.sums, rel=1e-4)
    assert (found.steps, found.not_finite) == (STEPS, None)


def test_blocks_of_any_length_share_one_trace():
    objective, traced = Squares(), []
    objective.spoil = lambda first, second, outputs, step: (traced.append(1), (first, second))[1]
    made = stepper(objective)
    for steps in (1, 3, 2, 4):
        assert run(made, steps).steps == steps
    assert len(traced) <= 2


def test_variable_without_gradient_stays_as_it_is():
    class Spare(Squares):
        def __init__(self):
            super().__init__()
            self.spare = keras.Variable(np.ones(3, np.float32))

        @property
        def trainable_variables(self):
            return [self.spare, *self.layer.trainable_variables]

    objective = Spare()
    before = weights(objective)
    assert run(stepper(objective)).steps == STEPS
    np.testing.assert_array_equal(objective.spare.value.numpy(), before[0])
    assert not np.array_equal(weights(objective)[1], before[1])


def large_stepper(objective, augments=(), **given) -> Stepper:
    """A stepper whose data is streamed."""
    made = stepper(objective, resident_bytes=0, augments=augments, **given)
    assert not made.feed.is_resident
    return made


@pytest.mark.parametrize("jit", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("augments", [(), (Shift(pixels=2), Mixup(alpha=1.0))], ids=["plain", "mixed"])
def test_streamed_data_gives_the_steps_of_resident_data(augments, jit):
    one, many = Squares(), Squares()
    expected = run(stepper(one, augments=augments, jit=jit))
    made = large_stepper(many, augments, jit=jit)
    found = run(made)
    assert found.sums == pytest.approx(expected.sums, rel=1e-5 if jit else 1e-12)
    assert (found.steps, found.not_finite) == (STEPS, None)
    for a, b in zip(weights(one), weights(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5 if jit else 0)


def test_streamed_blocks_continue_one_another_and_share_one_trace():
    one, many, traced = Squares(), Squares(), []
    expected = run(stepper(one), 16)
    many.spoil = lambda first, second, outputs, step: (traced.append(1), (first, second))[1]
    made = large_stepper(many)
    positions = np.arange(16 * BATCH).reshape(16, BATCH) % 32
    total, done = 0.0, 0
    # Three starts: the beginning, an epoch that is left before its end, and the rest of that one.
    for begin, blocks in ((0, (1, 3)), (4, (2, 4)), (10, (5, 1))):
        made.start(positions[begin:], table=made.feed.views.table(0), slot=0)
        for steps in blocks:
            result = made.run(steps, first=done)
            assert result.steps == steps
            done += steps
            total += result.sums["loss"]
    assert total == pytest.approx(expected.sums["loss"], rel=1e-9)
    for a, b in zip(weights(one), weights(many), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(traced) <= 2


def test_streamed_step_that_is_not_finite_ends_the_block_before_it():
    broken = Squares(breaking("NaN in the first term", 2))
    result = run(large_stepper(broken))
    assert (result.steps, result.not_finite) == (2, "first")
    assert all(np.isfinite(value).all() for value in weights(broken))


def test_damaged_image_is_named_when_its_batch_is_decoded(tmp_path):
    whole = [tf.io.encode_png(picture).numpy() for picture in blobs(32)[0]]
    whole[19] = whole[19][: len(whole[19]) // 2]
    images = [EncodedImage(name=f"image {at}", content=content, label=at % 3) for at, content in enumerate(whole)]
    examples = load_images([images], name="d", resident_bytes=0).splits["train"]
    objective = Squares()
    feed = Feed(examples, Views((), seed=0, count=1, examples=32), resident_bytes=0)
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(objective.trainable_variables)
    strategy = tf.distribute.get_strategy()
    made = Stepper(objective, feed, optimizer, batch_size=BATCH, total_steps=STEPS, strategy=strategy)
    made.start(np.arange(32).reshape(STEPS, BATCH), table=tf.zeros((1, 0)), slot=0)
    assert made.run(2, first=0).steps == 2
    with pytest.raises(DataError, match="image 19: the image is damaged or truncated"):
        made.run(2, first=2)
