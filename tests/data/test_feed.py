"""Batches by position: gathered from memory or from the host, and loaded as tensors."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.augment.mixup import Mixup
from kdcli.augment.shift import Shift
from kdcli.data.examples import Examples
from kdcli.data.feed import Feed, load_resident_tensors
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.data.views import Views

X, Y = blobs(24)
WEIGHTS = np.arange(24) / 8


def examples(**more):
    train = splits_from_arrays({"x": X, "y": Y, "weight": WEIGHTS, **more}, name="d").train
    return train.subset(np.arange(23, 3, -1))


def gathered(split, positions, *, resident, augments=(), compiled=True):
    views = Views(augments, seed=0, count=None, examples=len(split))
    feed = Feed(split, views, resident_bytes=10**9 if resident else 0)
    assert feed.is_resident == resident
    table = views.table(1)

    def gather(at):
        batch = feed.gather(at, table, slot=tf.constant(0), total=len(positions))
        return batch.inputs, batch.labels, batch.weights, batch.positions

    gather = tf.function(gather, autograph=False) if compiled else gather
    read = gather(tf.constant(positions))
    return tf.nest.map_structure(lambda tensor: None if tensor is None else tensor.numpy(), read)


@pytest.mark.parametrize("resident", [True, False])
def test_inputs_labels_and_weights_are_gathered_by_position(resident):
    inputs, labels, weights, positions = gathered(examples(), [5, 0, 19], resident=resident)
    np.testing.assert_array_equal(inputs["x"], X[[18, 23, 4]])
    assert inputs["x"].dtype == np.uint8
    np.testing.assert_array_equal(labels, Y[[18, 23, 4]])
    np.testing.assert_array_equal(weights, WEIGHTS[[18, 23, 4]].astype(np.float32))
    assert positions.tolist() == [5, 0, 19]


@pytest.mark.parametrize("augments", [(), (Shift(pixels=2),)])
def test_streamed_batches_equal_resident_ones(augments):
    both = [gathered(examples(), [7, 7, 2, 11], resident=kind, augments=augments) for kind in (True, False)]
    tf.nest.map_structure(np.testing.assert_array_equal, *both)


def test_streamed_batches_have_static_shapes():
    split = examples()
    feed = Feed(split, Views([], seed=0, count=1, examples=len(split)), resident_bytes=0)
    shapes = []

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int64)], autograph=False)
    def gather(at):
        batch = feed.gather(at, tf.zeros((1, 0)), slot=0, total=2)
        shapes.append(batch.inputs["x"].shape.as_list())
        return batch.inputs["x"]

    gather(np.array([1, 2]))
    assert shapes == [[None, 8, 8, 1]]


@pytest.mark.parametrize("resident", [True, False])
def test_several_inputs_are_gathered_by_name(resident):
    arrays = {"x.left": np.arange(8.0), "x.right": np.arange(8) * 10}
    split = splits_from_arrays(arrays, name="d").train
    inputs, labels, weights, _ = gathered(split, [3, 1], resident=resident)
    assert {name: value.tolist() for name, value in inputs.items()} == {"left": [3.0, 1.0], "right": [30, 10]}
    assert (labels, weights) == (None, None)


def test_data_above_the_limit_is_not_resident():
    split = examples()
    views = Views([], seed=0, count=1, examples=len(split))
    assert Feed(split, views, resident_bytes=20 * 64).is_resident
    assert not Feed(split, views, resident_bytes=20 * 64 - 1).is_resident


def test_soft_labels_are_gathered_and_mixed():
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 24).astype(np.float32)
    split = replace(examples(), soft_labels=rows, weights=None)
    np.testing.assert_array_equal(gathered(split, [5, 0], resident=True)[1], rows[[18, 23]])
    views = Views([Mixup(alpha=1.0)], seed=0, count=None, examples=len(split))
    feed, table, positions = Feed(split, views, classes=3), views.table(1), tf.constant([5, 0, 19])
    mixed = feed.gather(positions, table, slot=tf.constant(0), total=3).labels
    sources = views.sources(positions, table, size=(8, 8))
    expected = sum(fraction.numpy()[:, None] * rows[split.rows[at.numpy()]] for at, fraction in sources)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    assert np.abs(mixed - rows[[18, 23, 4]]).max() > 0.01


TYPES = ["bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))]


def select_rows(rows, **inputs):
    return Examples("train", inputs, None, None, np.asarray(rows))


@pytest.mark.parametrize("name", [*TYPES, "float16", "float32", "float64"])
def test_tensors_contain_the_rows_for_every_type(name):
    x = (np.arange(60).reshape(20, 3) % 7).astype(name)
    tensor = load_resident_tensors(select_rows([3, 19, 0, 0], x=x))["x"]
    assert tensor.dtype == name
    np.testing.assert_array_equal(tensor.numpy(), x[[3, 19, 0, 0]])


def test_several_inputs_are_loaded_in_several_parts(monkeypatch):
    monkeypatch.setattr("kdcli.data.feed.PART_BYTES", 50)
    inputs = {"left": np.arange(40.0).reshape(20, 2), "right": np.arange(20, dtype=np.uint8)}
    rows = np.random.default_rng(0).permutation(20)[:17]
    tensors = load_resident_tensors(select_rows(rows, **inputs))
    for name, array in inputs.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array[rows])


def test_tensor_does_not_depend_on_its_source_array():
    x = np.arange(30, dtype=np.uint8).reshape(10, 3)
    tensor = load_resident_tensors(select_rows(np.arange(10), x=x))["x"]
    x[:] = 0
    gather = tf.function(lambda at: tf.gather(tensor, at), jit_compile=True)
    assert gather(tf.constant([1, 9])).numpy().tolist() == [[3, 4, 5], [27, 28, 29]]


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted on Linux")
def test_loading_needs_little_more_memory_than_the_tensors():
    x = np.zeros((20_000, 32, 32, 3), np.uint8)
    load_resident_tensors(select_rows([0], x=x[:1]))
    process, seen, done = psutil.Process(), [], threading.Event()

    def sample():
        while not done.is_set():
            seen.append(process.memory_info().rss)
            time.sleep(0.001)

    sampling = threading.Thread(target=sample)
    before = process.memory_info().rss
    sampling.start()
    tensors = load_resident_tensors(select_rows(np.arange(20_000), x=x))
    done.set()
    sampling.join()
    # The source is one page of zeros, so only the tensor takes memory.
    assert max(seen) - before < 1.5 * x.nbytes
    assert tensors["x"].shape == x.shape
