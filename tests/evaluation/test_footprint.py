"""Bytes and FLOPs, compared with manual counts and with TensorFlow's profiler."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.evaluation.footprint import (
    count_file_bytes,
    count_flops,
    count_least_bytes,
    count_model_bytes,
    count_weight_bytes,
)
from kdcli.evaluation.latency.subjects import compile_network
from kdcli.lazy import silence_descriptor
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing

L = keras.layers


def network(shape, *layers, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    outputs = inputs
    for layer in layers:
        outputs = layer(outputs)
    made = KerasNetwork(keras.Model(inputs, outputs), name="made")
    return made.with_preprocessing({"x": Preprocessing(shape, dtype, shape, dtype)})


def attention():
    inputs = keras.Input((5, 8))
    outputs = L.MultiHeadAttention(2, 4)(inputs, inputs)
    made = KerasNetwork(keras.Model(inputs, outputs), name="attention")
    return made.with_preprocessing({"x": Preprocessing((5, 8), "float32", (5, 8), "float32")})


COUNTED = {
    "dense": (lambda: network((7,), L.Dense(5, activation="relu")), 2 * 7 * 5),
    "dense on a series": (lambda: network((4, 7), L.Dense(5)), 4 * 2 * 7 * 5),
    "convolution, same": (lambda: network((8, 6, 3), L.Conv2D(4, 3, padding="same")), 2 * 8 * 6 * 9 * 3 * 4),
    "convolution, strided": (lambda: network((8, 8, 3), L.Conv2D(4, 3, strides=2)), 2 * 3 * 3 * 9 * 3 * 4),
    "convolution, one axis": (lambda: network((10, 3), L.Conv1D(4, 3)), 2 * 8 * 3 * 3 * 4),
    "convolution, three axes": (lambda: network((4, 4, 4, 2), L.Conv3D(3, 2)), 2 * 27 * 8 * 2 * 3),
    "depthwise": (lambda: network((8, 8, 3), L.DepthwiseConv2D(3, depth_multiplier=2)), 2 * 36 * 6 * 9),
    "separable": (lambda: network((8, 8, 3), L.SeparableConv2D(5, 3)), 2 * 36 * 3 * 9 + 2 * 36 * 3 * 5),
    "transposed": (lambda: network((4, 4, 3), L.Conv2DTranspose(5, 2, strides=2)), 2 * 16 * 3 * 4 * 5),
    # Four projections of 8 to 2 heads of 4, then scores and mixing over 5 positions.
    "attention": (attention, 4 * 2 * 5 * 8 * 8 + 2 * (2 * 2 * 5 * 5 * 4)),
    "two layers": (
        lambda: network((6, 6, 1), L.Conv2D(2, 3), L.BatchNormalization(), L.Flatten(), L.Dense(3)),
        2 * 16 * 9 * 2 + 2 * 32 * 3,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_flops_equal_a_manual_count(name):
    build, expected = COUNTED[name]
    assert count_flops(build()) == expected


def test_flops_equal_the_profiler_for_layers_that_it_counts_in_the_same_way():
    made = network(
        (12, 12, 3),
        L.Conv2D(4, 3, use_bias=False),
        L.DepthwiseConv2D(3, use_bias=False),
        L.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
        L.Flatten(),
        L.Dense(5, use_bias=False),
    )
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    graph = compile_network(made, batch=1).graph
    assert count_flops(made) == profiler.profile(graph, options=options).total_float_ops


@pytest.mark.parametrize(
    "build",
    [
        lambda: network((5, 3), L.LSTM(4)),
        lambda: network((8, 8, 2), L.MaxPooling2D(), L.Flatten()),
    ],
    ids=["a loop", "nothing that counts"],
)
def test_flops_that_cannot_be_counted_are_none_and_never_zero(build):
    assert count_flops(build()) is None


def test_resizing_and_scaling_are_not_counted():
    made = network((8, 8, 3), L.Conv2D(4, 3, padding="same"))
    larger = made.with_preprocessing(
        {"x": Preprocessing((32, 32, 3), "uint8", (8, 8, 3), "float32", "imagenet", (8, 8))}
    )
    assert count_flops(larger) == count_flops(made)


def test_bytes_of_a_file_and_of_a_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "one").write_bytes(bytes(10))
    (tmp_path / "inner" / "two").write_bytes(np.zeros(4, np.int32).tobytes())
    assert count_file_bytes(tmp_path / "one") == 10
    assert count_file_bytes(tmp_path) == 26
    assert count_weight_bytes(10) == {"float32": 40, "float16": 20, "int8": 10}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_model_bytes_exclude_the_optimizer_state(tmp_path, suffix):
    model = keras.Sequential([keras.Input((64,)), L.Dense(300, activation="relu"), L.Dense(3)])
    plain, trained = tmp_path / f"plain{suffix}", tmp_path / f"trained{suffix}"
    model.save(plain)
    assert count_model_bytes(plain) == count_file_bytes(plain)
    model.compile("adam", "mse")
    model.fit(np.zeros((8, 64)), np.zeros((8, 3)), verbose=0)
    model.save(trained)
    # Adam stores two numbers for each weight.
    assert count_file_bytes(trained) > 2.5 * count_file_bytes(plain)
    assert count_model_bytes(trained) == pytest.approx(count_file_bytes(plain), rel=0.1)


def test_model_bytes_exclude_the_optimizer_state_of_a_saved_model(tmp_path):
    class Trained(tf.Module):
        def __init__(self):
            self.kernel = tf.Variable(tf.zeros((30, 20)))
            self.optimizer = tf.Module()
            self.optimizer.moments = [tf.Variable(tf.zeros((30, 20))), tf.Variable(tf.zeros((), tf.int64))]

    tf.saved_model.save(Trained(), str(tmp_path / "model"))
    assert count_file_bytes(tmp_path / "model") - count_model_bytes(tmp_path / "model") == 30 * 20 * 4 + 8


def test_an_int8_file_is_not_smaller_than_its_kernels(tmp_path):
    pytest.importorskip("ai_edge_litert")
    layers = [L.Conv2D(40, 3), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    least = count_least_bytes(model.variables)
    assert least == 9 * 40 + 6 * 6 * 40 * 3
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([np.ones((1, 8, 8, 1), np.float32)] for _ in range(3))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert least <= len(converter.convert()) < 4 * least
