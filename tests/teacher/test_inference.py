"""A teacher pass computes the same outputs as plain batches, for any range of examples, and cleans up."""

from __future__ import annotations

import threading
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.augment import Flip, Mixup, Shift
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.data.views import Views
from kdcli.errors import DataError, ModelError
from kdcli.models.hardware import read_processor_flags
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.prediction import Predictor
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.saved_model.child_main import handle_request
from kdcli.models.saved_model.constant_function import ConstantFunction
from kdcli.models.saved_model.freeze import MAX_WEIGHT_BYTES, read_frozen_graph
from kdcli.models.saved_model.network import FrozenNetwork
from kdcli.teacher import inference
from kdcli.teacher.inference import TeacherPass
from kdcli.zoo import Cnn, Resnet

EXAMPLES = splits_from_arrays(dict(zip("xy", blobs(40), strict=True)), name="d").train.subset(np.arange(39, 1, -1))
TAPS = ("block2", "pooling")
PREPROCESSING = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32")


def network(model, name="t.keras"):
    return KerasNetwork(model, name=name).with_preprocessing({"x": PREPROCESSING})


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(0)
    return network(Cnn(width=2, blocks=2).build((8, 8, 1), 3))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A residual network with BatchNorm as a SavedModel; only its last product is not a convolution."""
    keras.utils.set_random_seed(0)
    scratch = tmp_path_factory.mktemp("graph")
    Resnet(depth=8, width=4).build((8, 8, 1), 3).export(scratch / "model", format="tf_saved_model", verbose=False)
    # Frozen in this process, which saves a child process.
    request = {
        "path": scratch / "model",
        "scratch": scratch,
        "legacy": False,
        "signature": None,
        "max_weight_bytes": MAX_WEIGHT_BYTES,
    }
    handle_request(request)
    opened = FrozenNetwork(read_frozen_graph(scratch, name="model"), name="model")
    return opened.with_preprocessing({"x": PREPROCESSING})


def views(count=None, *augments):
    return Views(augments or ([Shift(pixels=2)] if count else []), seed=3, count=count, examples=len(EXAMPLES))


def predict_plainly(teacher, which, view, *, taps=()):
    """The outputs of plain batches for all examples."""
    seen = which.apply(
        EXAMPLES.take(np.arange(len(EXAMPLES))),
        tf.range(len(EXAMPLES)),
        which.table(view),
        take=lambda at: EXAMPLES.take(at.numpy()),
    )
    return Predictor(teacher, taps=taps)(lambda at: {"x": np.asarray(seen["x"])[at]}, len(EXAMPLES))


@pytest.mark.parametrize("folding", [False, True])
@pytest.mark.parametrize("size", [7, None])
def test_outputs_equal_those_of_plain_batches_in_every_view(teacher, size, folding):
    which = views(3)
    with TeacherPass(teacher, TAPS, EXAMPLES, which, batch_size=size, folding=folding) as teacher_pass:
        for view in (2, 0):
            found, expected = (
                teacher_pass(view, 0, len(EXAMPLES)),
                predict_plainly(teacher, which, view, taps=TAPS),
            )
            assert set(found) == {"logits", *TAPS}
            for name, values in expected.items():
                assert found[name].dtype == np.float32
                np.testing.assert_allclose(found[name], values, atol=1e-6)
        assert isinstance(teacher_pass._function, ConstantFunction) == folding


def test_any_range_of_positions_gives_the_same_rows(teacher):
    with TeacherPass(teacher, (), EXAMPLES, views(2), batch_size=8) as teacher_pass:
        whole = teacher_pass(1, 0, len(EXAMPLES))["logits"]
        for start, stop in ((0, 1), (5, 21), (30, len(EXAMPLES)), (9, 9)):
            found = teacher_pass(1, start, stop)
            np.testing.assert_allclose(found.get("logits", whole[:0]), whole[start:stop], atol=1e-6)


def test_a_mixed_view_contains_the_mixed_in_examples(teacher):
    which = views(2, Flip(), Mixup(alpha=1.0))
    for folding in (False, True):
        with TeacherPass(teacher, (), EXAMPLES, which, batch_size=16, folding=folding) as teacher_pass:
            expected = predict_plainly(teacher, which, 1)["logits"]
            np.testing.assert_allclose(teacher_pass(1, 0, len(EXAMPLES))["logits"], expected, atol=1e-6)
    plain = predict_plainly(teacher, views(), 0)["logits"]
    assert not np.allclose(expected, plain, atol=1e-3)


def test_outputs_of_a_saved_model_equal_those_of_plain_batches(graph):
    expected = Predictor(graph)(EXAMPLES.take, 20)["logits"]
    for folding in (False, True):
        with TeacherPass(graph, (), EXAMPLES, views(), batch_size=6, folding=folding) as teacher_pass:
            np.testing.assert_allclose(teacher_pass(0, 0, 20)["logits"], expected, atol=1e-5)


def test_progress_counts_the_examples_and_may_stop_the_pass(teacher):
    progress = []
    with TeacherPass(teacher, (), EXAMPLES, views(), batch_size=10) as teacher_pass:
        teacher_pass(0, 3, 28, on_batch=progress.append)
        assert progress == [10, 20, 25]

        def stop(done):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            teacher_pass(0, 0, 30, on_batch=stop)
        assert len(teacher_pass(0, 0, 4)["logits"]) == 4


def test_examples_are_read_during_inference(teacher, monkeypatch):
    taken = threading.Event()
    first = threading.Event()

    class Slow(type(EXAMPLES)):
        def take(self, positions):
            if positions[0]:
                taken.set()
            return super().take(positions)

    slow = Slow(**vars(EXAMPLES))
    with TeacherPass(teacher, (), slow, views(), batch_size=30) as teacher_pass:
        compute = teacher_pass._function

        def compute_after_reading(*arguments):
            if not first.is_set():
                first.set()
                # The second batch is read before the first one has been computed.
                assert taken.wait(20)
            return compute(*arguments)

        monkeypatch.setattr(teacher_pass, "_function", compute_after_reading)
        assert len(teacher_pass(0, 0, len(EXAMPLES))["logits"]) == len(EXAMPLES)


def test_a_reading_error_is_raised_unchanged(teacher):
    class Damaged(type(EXAMPLES)):
        def take(self, positions):
            if 12 in positions:
                raise DataError("12.png: the image is damaged")
            return super().take(positions)

    damaged = Damaged(**vars(EXAMPLES))
    with TeacherPass(teacher, (), damaged, views(), batch_size=5) as teacher_pass:
        with pytest.raises(DataError, match=r"12\.png"):
            teacher_pass(0, 0, len(EXAMPLES))
        assert len(teacher_pass(0, 0, 10)["logits"]) == 10


def test_a_damaged_image_that_is_mixed_in_is_named(teacher):
    which = views(2, Mixup(alpha=1.0))
    partners = which.sources(tf.range(5), which.table(0), size=(8, 8))[1][0].numpy()
    damaged_one = max(partners)
    assert damaged_one >= 5

    class Damaged(type(EXAMPLES)):
        def take(self, positions):
            if damaged_one in positions:
                raise DataError(f"{damaged_one}.png: the image is damaged")
            return super().take(positions)

    with TeacherPass(teacher, (), Damaged(**vars(EXAMPLES)), which, batch_size=5) as teacher_pass:
        with pytest.raises(DataError, match=f"{damaged_one}.png"):
            teacher_pass(0, 0, 5)


def divide_by_zero_at(position):
    """A teacher that divides by zero for the example at a position."""
    value = float(EXAMPLES.take(np.array([position]))["x"].astype(np.float32).sum() / 255)
    inputs = keras.Input((8, 8, 1))
    total = keras.ops.sum(inputs, axis=(1, 2))
    exact = keras.ops.cast(keras.ops.abs(total - value) > 1e-3, "float32")
    return network(keras.Model(inputs, keras.layers.Dense(3, name="out")(total) / exact))


def test_outputs_that_are_not_finite_are_refused_with_the_position():
    with TeacherPass(divide_by_zero_at(27), (), EXAMPLES, views(), batch_size=5) as teacher_pass:
        assert np.isfinite(teacher_pass(0, 0, 27)["logits"]).all()
        with pytest.raises(ModelError) as caught:
            teacher_pass(0, 20, 38)
    assert caught.value.message == (
        "the teacher (t.keras) computes NaN or infinity for 1 of 18 examples (logits, first at position 27)"
    )
    assert caught.value.exit_code == 4


def test_batches_are_halved_if_memory_runs_out(teacher, monkeypatch):
    sizes = []
    with TeacherPass(teacher, (), EXAMPLES, views()) as teacher_pass:
        compute = teacher_pass._function

        def scarce(raw, positions, table):
            sizes.append(len(positions))
            if len(positions) > 10:
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return compute(raw, positions, table)

        monkeypatch.setattr(teacher_pass, "_function", scarce)
        found = teacher_pass(0, 0, len(EXAMPLES))["logits"]
        assert sizes == [38, 19, 9, 9, 9, 9, 2]
        np.testing.assert_allclose(found, predict_plainly(teacher, views(), 0)["logits"], atol=1e-6)
        monkeypatch.setattr(teacher_pass, "_function", lambda raw, _, table: scarce(raw, np.zeros(11), table))
        with pytest.raises(tf.errors.ResourceExhaustedError):
            teacher_pass(0, 0, 3)


def test_the_batch_size_is_found_during_the_pass(teacher, monkeypatch):
    monkeypatch.setattr(inference, "FIRST_BATCH_SIZE", 2)
    monkeypatch.setattr(inference, "MAX_BATCH_SIZE", 4)
    rows = np.arange(5000) % len(EXAMPLES)
    many = EXAMPLES.subset(rows)
    clock = partial(next, iter(range(10**6)))
    with TeacherPass(teacher, (), many, Views((), seed=0, count=1, examples=5000), clock=clock) as teacher_pass:
        first = teacher_pass(0, 0, 30)["logits"]
        # One tick of the clock for every batch: the larger size is faster.
        assert teacher_pass.batch_size == 4
        second = teacher_pass(0, 30, 100)["logits"]
    expected = predict_plainly(teacher, views(), 0)["logits"][rows[:100]]
    np.testing.assert_allclose(np.concatenate([first, second]), expected, atol=1e-6)


def test_layers_and_weights_do_not_change(teacher):
    policies = [layer.dtype_policy for layer in teacher.layers]
    before = [np.array(variable.numpy()) for variable in teacher.variables]
    for folding in (False, True):
        with TeacherPass(
            teacher, (), EXAMPLES, views(), precision="mixed_bfloat16", folding=folding
        ) as teacher_pass:
            teacher_pass(0, 0, 8)
            assert [layer.dtype_policy for layer in teacher.layers] == policies
    for variable, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_policies_are_restored_if_tracing_fails():
    class Failing(keras.layers.Layer):
        def call(self, x):
            if self.compute_dtype == "bfloat16":
                raise RuntimeError("not in half")
            return x

    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(3, name="out")(keras.layers.Flatten()(Failing(name="failing")(inputs)))
    found = network(keras.Model(inputs, x))
    with pytest.raises(RuntimeError, match="not in half"):
        TeacherPass(found, (), EXAMPLES, views(), precision="mixed_bfloat16", folding=False)
    assert {layer.dtype_policy.name for layer in found.layers} == {"float32"}


@pytest.mark.parametrize("folding", [False, True])
def test_half_precision_changes_outputs_slightly(teacher, folding):
    if folding and not read_processor_flags():
        pytest.skip("this CPU has no hardware support for bfloat16")
    exact = predict_plainly(teacher, views(), 0)["logits"]
    with TeacherPass(teacher, (), EXAMPLES, views(), precision="mixed_bfloat16", folding=folding) as teacher_pass:
        found = teacher_pass(0, 0, len(EXAMPLES))["logits"]
    assert 0 < np.abs(found - exact).max() < 0.05
    # The logits themselves are not rounded to eight bits.
    rounded = tf.cast(tf.cast(found, tf.bfloat16), tf.float32).numpy()
    assert not np.array_equal(found, rounded)


def test_half_precision_of_a_saved_model_is_limited_to_the_pass(graph):
    if not read_processor_flags():
        pytest.skip("this CPU has no hardware support for bfloat16")
    exact = Predictor(graph)(EXAMPLES.take, 20)["logits"]
    left = tf.random.stateless_normal((64, 64), seed=(1, 2))
    product = (left @ left).numpy()
    for folding in (False, True):
        with TeacherPass(
            graph, (), EXAMPLES, views(), precision="mixed_bfloat16", folding=folding
        ) as teacher_pass:
            found = teacher_pass(0, 0, 20)["logits"]
            assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
            # Other functions, traced while the pass is open, and the network itself compute in float32.
            np.testing.assert_array_equal(tf.function(lambda x: x @ x, autograph=False)(left), product)
            np.testing.assert_array_equal(Predictor(graph)(EXAMPLES.take, 20)["logits"], exact)
            np.testing.assert_array_equal(teacher_pass(0, 0, 20)["logits"], found)


def test_a_network_that_changes_its_weights_is_not_folded():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Reshape((8, 8))(inputs)
    x = keras.layers.GRU(3, stateful=False, name="reader")(x)
    plain = network(keras.Model(inputs, keras.layers.Dense(3, name="out")(x)))

    class Counting(keras.layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.calls.assign_add(1.0)
            return x + 0 * self.calls

    x = keras.layers.Dense(3, name="out")(keras.layers.Flatten()(Counting()(inputs)))
    counting = network(keras.Model(inputs, x))
    for found, constant in ((plain, True), (counting, False)):
        with TeacherPass(found, (), EXAMPLES, views(), folding=True) as teacher_pass:
            assert isinstance(teacher_pass._function, ConstantFunction) == constant
            expected = predict_plainly(found, views(), 0)["logits"]
            np.testing.assert_allclose(teacher_pass(0, 0, len(EXAMPLES))["logits"], expected, atol=1e-6)


def test_the_reading_thread_ends_with_the_pass(teacher):
    with TeacherPass(teacher, (), EXAMPLES, views()) as teacher_pass:
        teacher_pass(0, 0, 8)
    teacher_pass.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("kd-examples")]
