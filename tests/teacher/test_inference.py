"""The fast pass: the same answers as any other way of asking, in any part, and nothing left behind."""

from __future__ import annotations

import threading
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.augment import Flip, Mixup, Shift
from kdcli.data.arrays import splits_from_arrays
from kdcli.data.views import Views
from kdcli.errors import DataError, ModelError
from kdcli.models.hardware import read_processor_flags
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.prediction import Predictor
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.saved_model.constant_function import ConstantFunction
from kdcli.models.saved_model.freeze import MAX_WEIGHT_BYTES, read_frozen_graph
from kdcli.models.saved_model.freeze_process import handle_request
from kdcli.models.saved_model.network import FrozenNetwork
from kdcli.teacher import inference
from kdcli.teacher.inference import TeacherPass
from kdcli.zoo import Cnn, Resnet

EXAMPLES = splits_from_arrays(dict(zip("xy", blobs(40), strict=True)), name="d").train.subset(np.arange(39, 1, -1))
TAPS = ("block2", "pooling")
PREPARATION = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32")


def network(model, name="t.keras"):
    return KerasNetwork(model, name=name).with_preprocessing({"x": PREPARATION})


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(0)
    return network(Cnn(width=2, blocks=2).build((8, 8, 1), 3))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A residual network with BatchNorm as a SavedModel; all of its products but the last are convolutions."""
    keras.utils.set_random_seed(0)
    scratch = tmp_path_factory.mktemp("graph")
    Resnet(depth=8, width=4).build((8, 8, 1), 3).export(scratch / "model", format="tf_saved_model", verbose=False)
    # Frozen in this process: no child has to die.
    request = {
        "path": scratch / "model",
        "scratch": scratch,
        "legacy": False,
        "signature": None,
        "max_weight_bytes": MAX_WEIGHT_BYTES,
    }
    handle_request(request)
    opened = FrozenNetwork(read_frozen_graph(scratch, name="model"), name="model")
    return opened.with_preprocessing({"x": PREPARATION})


def views(count=None, *augments):
    return Views(augments or ([Shift(pixels=2)] if count else []), seed=3, count=count, examples=len(EXAMPLES))


def one_after_the_other(teacher, which, view, *, taps=()):
    """What plain batches of the whole split give."""
    seen = which.apply(
        EXAMPLES.take(np.arange(len(EXAMPLES))),
        tf.range(len(EXAMPLES)),
        which.table(view),
        take=lambda at: EXAMPLES.take(at.numpy()),
    )
    return Predictor(teacher, taps=taps)(lambda at: {"x": np.asarray(seen["x"])[at]}, len(EXAMPLES))


@pytest.mark.parametrize("folding", [False, True])
@pytest.mark.parametrize("size", [7, None])
def test_answers_are_those_of_plain_batches_in_every_view(teacher, size, folding):
    which = views(3)
    with TeacherPass(teacher, TAPS, EXAMPLES, which, batch_size=size, folding=folding) as ask:
        for view in (2, 0):
            found, expected = ask(view, 0, len(EXAMPLES)), one_after_the_other(teacher, which, view, taps=TAPS)
            assert set(found) == {"logits", *TAPS}
            for name, values in expected.items():
                assert found[name].dtype == np.float32
                np.testing.assert_allclose(found[name], values, atol=1e-6)
        assert isinstance(ask._ask, ConstantFunction) == folding


def test_any_part_gives_the_same_rows(teacher):
    with TeacherPass(teacher, (), EXAMPLES, views(2), batch_size=8) as ask:
        whole = ask(1, 0, len(EXAMPLES))["logits"]
        for start, stop in ((0, 1), (5, 21), (30, len(EXAMPLES)), (9, 9)):
            found = ask(1, start, stop)
            np.testing.assert_allclose(found.get("logits", whole[:0]), whole[start:stop], atol=1e-6)


def test_a_mixed_view_shows_the_partner_too(teacher):
    which = views(2, Flip(), Mixup(alpha=1.0))
    for folding in (False, True):
        with TeacherPass(teacher, (), EXAMPLES, which, batch_size=16, folding=folding) as ask:
            expected = one_after_the_other(teacher, which, 1)["logits"]
            np.testing.assert_allclose(ask(1, 0, len(EXAMPLES))["logits"], expected, atol=1e-6)
    plain = one_after_the_other(teacher, views(), 0)["logits"]
    assert not np.allclose(expected, plain, atol=1e-3)


def test_a_saved_model_answers_as_plain_batches_do(graph):
    expected = Predictor(graph)(EXAMPLES.take, 20)["logits"]
    for folding in (False, True):
        with TeacherPass(graph, (), EXAMPLES, views(), batch_size=6, folding=folding) as ask:
            np.testing.assert_allclose(ask(0, 0, 20)["logits"], expected, atol=1e-5)


def test_progress_counts_the_examples_of_the_part_and_may_stop(teacher):
    told = []
    with TeacherPass(teacher, (), EXAMPLES, views(), batch_size=10) as ask:
        ask(0, 3, 28, on_batch=told.append)
        assert told == [10, 20, 25]

        def stop(done):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ask(0, 0, 30, on_batch=stop)
        assert len(ask(0, 0, 4)["logits"]) == 4


def test_examples_are_taken_while_the_teacher_answers(teacher, monkeypatch):
    taken = threading.Event()
    first = threading.Event()

    class Slow(type(EXAMPLES)):
        def take(self, positions):
            if positions[0]:
                taken.set()
            return super().take(positions)

    slow = Slow(**vars(EXAMPLES))
    with TeacherPass(teacher, (), slow, views(), batch_size=30) as ask:
        answer = ask._ask

        def request(*given):
            if not first.is_set():
                first.set()
                # The second batch arrives although the first one is not answered yet.
                assert taken.wait(20)
            return answer(*given)

        monkeypatch.setattr(ask, "_ask", request)
        assert len(ask(0, 0, len(EXAMPLES))["logits"]) == len(EXAMPLES)


def test_what_fails_while_examples_are_taken_is_said_as_itself(teacher):
    class Damaged(type(EXAMPLES)):
        def take(self, positions):
            if 12 in positions:
                raise DataError("12.png: this picture is damaged")
            return super().take(positions)

    damaged = Damaged(**vars(EXAMPLES))
    with TeacherPass(teacher, (), damaged, views(), batch_size=5) as ask:
        with pytest.raises(DataError, match=r"12\.png"):
            ask(0, 0, len(EXAMPLES))
        assert len(ask(0, 0, 10)["logits"]) == 10


def test_a_damaged_picture_that_is_mixed_in_is_named(teacher):
    which = views(2, Mixup(alpha=1.0))
    partners = which.sources(tf.range(5), which.table(0), size=(8, 8))[1][0].numpy()
    damaged_one = max(partners)
    assert damaged_one >= 5

    class Damaged(type(EXAMPLES)):
        def take(self, positions):
            if damaged_one in positions:
                raise DataError(f"{damaged_one}.png: this picture is damaged")
            return super().take(positions)

    with TeacherPass(teacher, (), Damaged(**vars(EXAMPLES)), which, batch_size=5) as ask:
        with pytest.raises(DataError, match=f"{damaged_one}.png"):
            ask(0, 0, 5)


def breaking(position):
    """A teacher that divides by zero on one example, counted in the split."""
    value = float(EXAMPLES.take(np.array([position]))["x"].astype(np.float32).sum() / 255)
    inputs = keras.Input((8, 8, 1))
    total = keras.ops.sum(inputs, axis=(1, 2))
    exact = keras.ops.cast(keras.ops.abs(total - value) > 1e-3, "float32")
    return network(keras.Model(inputs, keras.layers.Dense(3, name="out")(total) / exact))


def test_answers_that_are_not_finite_are_refused_naming_the_example():
    with TeacherPass(breaking(27), (), EXAMPLES, views(), batch_size=5) as ask:
        assert np.isfinite(ask(0, 0, 27)["logits"]).all()
        with pytest.raises(ModelError) as caught:
            ask(0, 20, 38)
    assert caught.value.message == (
        "the teacher (t.keras) answers 1 of 18 examples with NaN or infinity (first at 27; logits)"
    )
    assert caught.value.exit_code == 4


def test_memory_that_runs_out_makes_batches_smaller_and_loses_no_answer(teacher, monkeypatch):
    request = []
    with TeacherPass(teacher, (), EXAMPLES, views()) as ask:
        answer = ask._ask

        def scarce(raw, positions, table):
            request.append(len(positions))
            if len(positions) > 10:
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return answer(raw, positions, table)

        monkeypatch.setattr(ask, "_ask", scarce)
        found = ask(0, 0, len(EXAMPLES))["logits"]
        assert request == [38, 19, 9, 9, 9, 9, 2]
        np.testing.assert_allclose(found, one_after_the_other(teacher, views(), 0)["logits"], atol=1e-6)
        monkeypatch.setattr(ask, "_ask", lambda *given: scarce(given[0], np.zeros(11), given[2]))
        with pytest.raises(tf.errors.ResourceExhaustedError):
            ask(0, 0, 3)


def test_many_answers_find_the_batch_size_on_the_way_and_lose_none(teacher, monkeypatch):
    monkeypatch.setattr(inference, "FIRST", 2)
    monkeypatch.setattr(inference, "LARGEST", 4)
    rows = np.arange(5000) % len(EXAMPLES)
    many = EXAMPLES.subset(rows)
    clock = partial(next, iter(range(10**6)))
    with TeacherPass(teacher, (), many, Views((), seed=0, count=1, examples=5000), clock=clock) as ask:
        first = ask(0, 0, 30)["logits"]
        # With a clock that takes one tick for every batch the larger one is faster.
        assert ask.batch_size == 4
        second = ask(0, 30, 100)["logits"]
    expected = one_after_the_other(teacher, views(), 0)["logits"][rows[:100]]
    np.testing.assert_allclose(np.concatenate([first, second]), expected, atol=1e-6)


def test_layers_and_weights_are_what_they_were(teacher):
    policies = [layer.dtype_policy for layer in teacher.layers]
    before = [np.array(variable.numpy()) for variable in teacher.variables]
    for folding in (False, True):
        with TeacherPass(teacher, (), EXAMPLES, views(), precision="mixed_bfloat16", folding=folding) as ask:
            ask(0, 0, 8)
            assert [layer.dtype_policy for layer in teacher.layers] == policies
    for variable, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_teacher_whose_call_fails_keeps_its_policies():
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
def test_half_precision_answers_nearly_the_same(teacher, folding):
    if folding and not read_processor_flags():
        pytest.skip("this processor does not multiply bfloat16")
    exact = one_after_the_other(teacher, views(), 0)["logits"]
    with TeacherPass(teacher, (), EXAMPLES, views(), precision="mixed_bfloat16", folding=folding) as ask:
        found = ask(0, 0, len(EXAMPLES))["logits"]
    assert 0 < np.abs(found - exact).max() < 0.05
    # The logits themselves are not rounded to eight bits.
    rounded = tf.cast(tf.cast(found, tf.bfloat16), tf.float32).numpy()
    assert not np.array_equal(found, rounded)


def test_half_precision_of_a_graph_ends_with_the_pass(graph):
    if not read_processor_flags():
        pytest.skip("this processor does not multiply bfloat16")
    exact = Predictor(graph)(EXAMPLES.take, 20)["logits"]
    left = tf.random.stateless_normal((64, 64), seed=(1, 2))
    product = (left @ left).numpy()
    for folding in (False, True):
        with TeacherPass(graph, (), EXAMPLES, views(), precision="mixed_bfloat16", folding=folding) as ask:
            found = ask(0, 0, 20)["logits"]
            assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
            # Another function, traced while the pass is open, and the network itself compute in float32.
            np.testing.assert_array_equal(tf.function(lambda x: x @ x, autograph=False)(left), product)
            np.testing.assert_array_equal(Predictor(graph)(EXAMPLES.take, 20)["logits"], exact)
            np.testing.assert_array_equal(ask(0, 0, 20)["logits"], found)


def test_a_network_that_changes_its_weights_is_not_made_constant():
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
        with TeacherPass(found, (), EXAMPLES, views(), folding=True) as ask:
            assert isinstance(ask._ask, ConstantFunction) == constant
            expected = one_after_the_other(found, views(), 0)["logits"]
            np.testing.assert_allclose(ask(0, 0, len(EXAMPLES))["logits"], expected, atol=1e-6)


def test_threads_end_with_the_pass(teacher):
    with TeacherPass(teacher, (), EXAMPLES, views()) as ask:
        ask(0, 0, 8)
    ask.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("kd-examples")]
