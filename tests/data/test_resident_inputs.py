"""Raw inputs as tensors: every type, any rows, one copy."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import psutil
import pytest
import tensorflow as tf

from kdcli.data.examples import Examples
from kdcli.data.resident_inputs import load_resident_tensors

TYPES = ["bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))]


def examples(rows, **inputs):
    return Examples("train", inputs, None, None, np.asarray(rows))


@pytest.mark.parametrize("name", [*TYPES, "float16", "float32", "float64"])
def test_values_of_every_type_are_those_of_the_rows(name):
    x = (np.arange(60).reshape(20, 3) % 7).astype(name)
    tensor = load_resident_tensors(examples([3, 19, 0, 0], x=x))["x"]
    assert tensor.dtype == name
    np.testing.assert_array_equal(tensor.numpy(), x[[3, 19, 0, 0]])


def test_several_inputs_in_several_parts(monkeypatch):
    monkeypatch.setattr("kdcli.data.resident_inputs.PART_BYTES", 50)
    inputs = {"left": np.arange(40.0).reshape(20, 2), "right": np.arange(20, dtype=np.uint8)}
    rows = np.random.default_rng(0).permutation(20)[:17]
    tensors = load_resident_tensors(examples(rows, **inputs))
    for name, array in inputs.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array[rows])


def test_the_tensor_outlives_the_array_and_does_not_see_its_source_change():
    x = np.arange(30, dtype=np.uint8).reshape(10, 3)
    tensor = load_resident_tensors(examples(np.arange(10), x=x))["x"]
    x[:] = 0
    gather = tf.function(lambda at: tf.gather(tensor, at), jit_compile=True)
    assert gather(tf.constant([1, 9])).numpy().tolist() == [[3, 4, 5], [27, 28, 29]]


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted on Linux")
def test_little_more_than_their_size_is_needed():
    x = np.zeros((20_000, 32, 32, 3), np.uint8)
    load_resident_tensors(examples([0], x=x[:1]))
    process, seen, done = psutil.Process(), [], threading.Event()

    def sample():
        while not done.is_set():
            seen.append(process.memory_info().rss)
            time.sleep(0.001)

    sampling = threading.Thread(target=sample)
    before = process.memory_info().rss
    sampling.start()
    kept = load_resident_tensors(examples(np.arange(20_000), x=x))
    done.set()
    sampling.join()
    # The source is one page of zeros: what grows is the tensor.
    assert max(seen) - before < 1.5 * x.nbytes
    assert kept["x"].shape == x.shape
