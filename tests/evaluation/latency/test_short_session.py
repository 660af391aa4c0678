"""The quick measurement of FLOPs and latency."""

from __future__ import annotations

import keras
import numpy as np

from kdcli.evaluation.footprint import count_flops
from kdcli.evaluation.latency.short_session import run_short_session
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing


def dense(units: int, depth: int) -> KerasNetwork:
    inputs = x = keras.Input((units,))
    for _ in range(depth):
        x = keras.layers.Dropout(0.5, seed=1)(keras.layers.Dense(units)(x))
    network = KerasNetwork(keras.Model(inputs, x), name="dense")
    return network.with_preprocessing({"x": Preprocessing((units,), "float32", (units,), "float32")})


def test_a_larger_model_takes_longer_and_is_left_unchanged():
    small, large = dense(8, 1), dense(2048, 4)
    before = [variable.numpy() for variable in large.variables]
    timed = [run_short_session(one, {"x": np.ones((4, one.outputs), "float32")}) for one in (small, large)]
    assert (
        [one.flops for one in timed]
        == [2 * 8 * 8, 4 * 2 * 2048 * 2048]
        == [count_flops(small), count_flops(large)]
    )
    assert timed[1].p50_ms > timed[0].p50_ms > 0
    for variable, value in zip(large.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    document = timed[0].to_json()
    assert document["flops"] == 128
    assert set(document["latency"]) == {"runtime", "threads", "batch", "p50_ms"}
