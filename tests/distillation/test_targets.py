"""The teacher's answers, live and kept."""

from __future__ import annotations

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.augment import Crop, Cutmix, Flip, Mixup, Shift
from kdcli.data.arrays import splits_from_arrays
from kdcli.data.feed import Feed
from kdcli.data.views import Views
from kdcli.distillation.targets import LiveTargets, answer_once, bytes_needed, choose_mode
from kdcli.errors import ModelError
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.preparation import Preparation
from kdcli.zoo import Cnn

EXAMPLES = splits_from_arrays(dict(zip("xy", blobs(20), strict=True)), name="d").train.subset(np.arange(19, 1, -1))
TAPS = ("block2", "pooling")


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(0)
    return network(Cnn(width=2, blocks=2).build((8, 8, 1), 3))


def network(model):
    preparation = Preparation((8, 8, 1), "uint8", (8, 8, 1), "float32")
    return KerasNetwork(model, name="t.keras").with_preparations({"x": preparation})


def views(count):
    return Views([Shift(pixels=2)] if count else [], seed=3, count=count, examples=len(EXAMPLES))


def batch(which, epoch, positions):
    view = which.of_epoch(epoch)
    feed = Feed(EXAMPLES, which, classes=3)
    return feed.gather(tf.constant(positions), which.table(view), slot=tf.constant(view), total=len(positions))


@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize("batch_size", [5, 256])
def test_kept_answers_equal_live_ones_in_every_view(teacher, count, batch_size):
    which = views(count)
    kept = answer_once(teacher, TAPS, EXAMPLES, which, batch_size=batch_size)
    live = LiveTargets(teacher, TAPS)
    for epoch in range(4):
        given = batch(which, epoch, [17, 0, 4, 4])
        ours, theirs = kept.at(given), live.at(given)
        assert set(ours) == set(theirs) == {"logits", *TAPS}
        for name, expected in theirs.items():
            np.testing.assert_allclose(ours[name], expected, atol=1e-5)
    assert (kept.mode, live.mode) == ("memory", "live")


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("mixing", [Mixup(alpha=1.0), Cutmix()], ids=["mixup", "cutmix"])
def test_a_mixed_picture_in_training_is_the_one_that_was_answered(teacher, mixing, resident):
    which = Views([Flip(), mixing, Crop(padding=1)], seed=3, count=2, examples=len(EXAMPLES))
    kept, live = answer_once(teacher, (), EXAMPLES, which, batch_size=7), LiveTargets(teacher, ())
    feed = Feed(EXAMPLES, which, classes=3, resident_bytes=10**9 if resident else 0)
    unmixed = answer_once(teacher, (), EXAMPLES, views(1))
    for view in range(2):
        positions = tf.constant([17, 0, 4, 4, 9])
        given = feed.gather(positions, which.table(view), slot=tf.constant(view), total=5)
        np.testing.assert_allclose(kept.at(given)["logits"], live.at(given)["logits"], atol=1e-5)
        assert not np.allclose(kept.at(given)["logits"], unmixed.at(batch(views(1), 0, positions))["logits"])


def test_views_are_answered_differently(teacher):
    kept = answer_once(teacher, (), EXAMPLES, views(2))
    both = [kept.at(batch(views(2), epoch, [0, 1, 2]))["logits"] for epoch in (0, 1)]
    assert not np.allclose(*both)


def test_a_kept_answer_is_looked_up_while_compiling(teacher):
    which = views(2)
    kept = answer_once(teacher, (), EXAMPLES, which)
    read = tf.function(lambda at: kept.at(batch(which, 1, at))["logits"], autograph=False)
    np.testing.assert_array_equal(read([3, 9]), kept.at(batch(which, 1, [3, 9]))["logits"])


def test_the_bytes_are_known_before_and_after(teacher):
    kept = answer_once(teacher, TAPS, EXAMPLES, views(3))
    expected = 4 * 18 * 3 * (3 + 4 * 4 * 4 + 4)
    assert (bytes_needed(teacher, TAPS, 18, 3), kept.bytes) == (expected, expected)


def test_progress_counts_the_examples_of_all_views(teacher):
    told = []
    answer_once(teacher, (), EXAMPLES, views(2), batch_size=10, on_batch=told.append)
    assert told == [10, 18, 28, 36]


def test_no_gradient_reaches_the_teacher(teacher):
    with tf.GradientTape() as tape:
        answers = LiveTargets(teacher, ("block2",)).at(batch(views(None), 0, [0, 1]))
        total = tf.reduce_sum(answers["logits"])
    found = tape.gradient(total, [v.value for v in teacher.trainable_variables])
    assert found == [None] * len(found)


def test_the_teacher_answers_in_inference_mode(teacher):
    before = [np.array(v.numpy()) for v in teacher.variables]
    LiveTargets(teacher, ()).at(batch(views(None), 0, [0, 1]))
    answer_once(teacher, (), EXAMPLES, views(None))
    for variable, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def breaking(position):
    """A teacher that divides by zero on one example, counted in the split."""
    value = float(EXAMPLES.take(np.array([position]))["x"].astype(np.float32).sum() / 255)
    inputs = keras.Input((8, 8, 1))
    total = keras.ops.sum(inputs, axis=(1, 2))
    exact = keras.ops.cast(keras.ops.abs(total - value) > 1e-3, "float32")
    return network(keras.Model(inputs, keras.layers.Dense(3, name="out")(total) / exact))


def test_answers_that_are_not_finite_are_refused_naming_the_example():
    with pytest.raises(ModelError) as caught:
        answer_once(breaking(7), (), EXAMPLES, views(None), batch_size=5)
    assert caught.value.message == (
        "the teacher (t.keras) answers 1 of 18 examples with NaN or infinity (first at 7; logits)"
    )
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("wanted", "needed", "keeps", "mode", "reason"),
    [
        ("live", 1, True, "live", "as asked"),
        ("memory", 10**15, True, "memory", "as asked"),
        ("memory", 1, False, "live", "a new view every epoch"),
        ("auto", 1, False, "live", "a new view every epoch"),
        ("auto", 250, True, "memory", "they fit in memory"),
        ("auto", 251, True, "live", "251 bytes of answers would not fit beside the data (1000 bytes free)"),
    ],
)
def test_the_mode_is_chosen_with_a_reason(monkeypatch, wanted, needed, keeps, mode, reason):
    class Free:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    found = choose_mode(wanted, needed=needed, keeps=keeps)
    assert found[0] == mode
    assert reason in found[1]
