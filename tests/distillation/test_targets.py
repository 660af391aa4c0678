"""The teacher's outputs, live and stored."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.augment import Crop, Cutmix, Flip, Mixup, Shift
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.data.feed import Feed
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.data.views import Views
from kdcli.distillation.targets import LiveTargets, MappedTargets, ResidentTargets
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.teacher.fill_cache import Filling, fill_cache, fill_memory
from kdcli.teacher.inference import TeacherPass
from kdcli.zoo import Cnn

EXAMPLES = splits_from_arrays(dict(zip("xy", blobs(20), strict=True)), name="d").train.subset(np.arange(19, 1, -1))
TAPS = ("block2", "pooling")


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(0)
    return network(Cnn(width=2, blocks=2).build((8, 8, 1), 3))


def network(model):
    preparation = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32")
    return KerasNetwork(model, name="t.keras").with_preprocessing({"x": preparation})


def views(count):
    return Views([Shift(pixels=2)] if count else [], seed=3, count=count, examples=len(EXAMPLES))


def layout(teacher, taps, which, dtype="float32"):
    shapes = {"logits": (3,), **{name: teacher.taps[name] for name in taps}}
    specs = tuple(
        ArraySpec(name, "float32" if name == "logits" else dtype, shape) for name, shape in shapes.items()
    )
    return Layout(len(EXAMPLES), which.count or 1, specs)


def quietly():
    return Filling(lambda done: None, lambda text, warning: None, lambda: None)


def resident(teacher, taps, which, *, batch_size=None, dtype="float32"):
    ask = partial(TeacherPass, teacher, taps, EXAMPLES, which, batch_size=batch_size)
    kept = fill_memory(ask, layout(teacher, taps, which, dtype), quietly())
    return ResidentTargets(kept, examples=len(EXAMPLES))


def mapped(teacher, taps, which, folder, dtype="float32"):
    ask = partial(TeacherPass, teacher, taps, EXAMPLES, which)
    reader, hit = fill_cache(
        folder,
        {"split": "train"},
        ask,
        layout=layout(teacher, taps, which, dtype),
        described={},
        choices={},
        filling=quietly(),
    )
    assert not hit
    return MappedTargets(reader)


def batch(which, epoch, positions):
    view = which.select_view(epoch)
    feed = Feed(EXAMPLES, which, classes=3)
    return feed.gather(tf.constant(positions), which.table(view), slot=tf.constant(view), total=len(positions))


@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize("batch_size", [5, 256])
def test_stored_outputs_equal_live_ones_in_every_view(teacher, count, batch_size, tmp_path):
    which = views(count)
    kept = [resident(teacher, TAPS, which, batch_size=batch_size), mapped(teacher, TAPS, which, tmp_path)]
    live = LiveTargets(teacher, TAPS)
    for epoch in range(4):
        given = batch(which, epoch, [17, 0, 4, 4])
        theirs = live.at(given)
        for ours in (one.at(given) for one in kept):
            assert set(ours) == set(theirs) == {"logits", *TAPS}
            for name, expected in theirs.items():
                np.testing.assert_allclose(ours[name], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_features_come_back_as_float32(teacher, dtype, tmp_path):
    which = views(2)
    given = batch(which, 1, [3, 9])
    exact = LiveTargets(teacher, TAPS).at(given)
    for kept in (resident(teacher, TAPS, which, dtype=dtype), mapped(teacher, TAPS, which, tmp_path, dtype)):
        found = kept.at(given)
        np.testing.assert_allclose(found["logits"], exact["logits"], atol=1e-5)
        for name in TAPS:
            assert found[name].dtype == tf.float32
            np.testing.assert_allclose(found[name], exact[name], rtol=1e-2, atol=1e-2)
            assert np.any(found[name] != exact[name])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("mixing", [Mixup(alpha=1.0), Cutmix()], ids=["mixup", "cutmix"])
def test_mixed_training_image_is_the_one_the_teacher_saw(teacher, mixing, in_memory):
    which = Views([Flip(), mixing, Crop(padding=1)], seed=3, count=2, examples=len(EXAMPLES))
    kept, live = resident(teacher, (), which, batch_size=7), LiveTargets(teacher, ())
    feed = Feed(EXAMPLES, which, classes=3, resident_bytes=10**9 if in_memory else 0)
    unmixed = resident(teacher, (), views(1))
    for view in range(2):
        positions = tf.constant([17, 0, 4, 4, 9])
        given = feed.gather(positions, which.table(view), slot=tf.constant(view), total=5)
        np.testing.assert_allclose(kept.at(given)["logits"], live.at(given)["logits"], atol=1e-5)
        assert not np.allclose(kept.at(given)["logits"], unmixed.at(batch(views(1), 0, positions))["logits"])


def test_outputs_differ_between_views(teacher):
    kept = resident(teacher, (), views(2))
    both = [kept.at(batch(views(2), epoch, [0, 1, 2]))["logits"] for epoch in (0, 1)]
    assert not np.allclose(*both)


def test_stored_outputs_are_read_in_a_compiled_function(teacher):
    which = views(2)
    kept = resident(teacher, (), which)
    read = tf.function(lambda at: kept.at(batch(which, 1, at))["logits"], autograph=False)
    np.testing.assert_array_equal(read([3, 9]), kept.at(batch(which, 1, [3, 9]))["logits"])


def test_no_gradient_reaches_the_teacher(teacher):
    with tf.GradientTape() as tape:
        answers = LiveTargets(teacher, ("block2",)).at(batch(views(None), 0, [0, 1]))
        total = tf.reduce_sum(answers["logits"])
    found = tape.gradient(total, [v.value for v in teacher.trainable_variables])
    assert found == [None] * len(found)


def test_teacher_runs_in_inference_mode(teacher):
    before = [np.array(v.numpy()) for v in teacher.variables]
    LiveTargets(teacher, ()).at(batch(views(None), 0, [0, 1]))
    resident(teacher, (), views(None))
    for variable, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
