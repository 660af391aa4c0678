"""Files that would create large weights or tensors are refused before they allocate anything."""

from __future__ import annotations

import json
import resource
import threading

import h5py
import keras
import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.models.keras.size_limits import check_tensor_sizes, limit_weights
from kdcli.screening.keras.hdf5 import screen_hdf5


def chained(path, units: int, layers: int):
    """A `.h5` file whose layers are small enough individually, but not in succession."""
    names = [f"dense_{number}" for number in range(layers)]
    made = [{"class_name": "InputLayer", "config": {"batch_input_shape": [None, 1], "name": "x"}}]
    made += [{"class_name": "Dense", "config": {"name": name, "units": units}} for name in names]
    config = {"class_name": "Sequential", "config": {"name": "model", "layers": made}}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file["model_weights/kernel"] = np.ones((1, 3), np.float32)
    return path


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_successive_large_layers_are_refused_before_allocation(tmp_path):
    path = chained(tmp_path / "model.h5", units=40_000, layers=3)
    verdict = screen_hdf5(path, custom_names=())
    assert verdict.safe and verdict.values == 3
    before = peak()
    with pytest.raises(
        ModelError, match=r"'dense_1' needs .* \(40000, 40000\), but the whole file holds 3 values"
    ):
        with limit_weights(verdict.values, name=str(path)):
            keras.saving.load_model(path, compile=False)
    assert peak() - before < 200_000


def test_weights_that_the_file_holds_are_created(tmp_path):
    layers = [keras.layers.Dense(4), keras.layers.Reshape((4, 1)), keras.layers.LSTM(2), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    path = tmp_path / "model.h5"
    model.save(path)
    with limit_weights(screen_hdf5(path, custom_names=()).values, name="model"):
        opened = keras.saving.load_model(path, compile=False)
    assert opened.count_params() == model.count_params()


def test_the_limit_applies_to_one_thread_until_the_block_ends():
    original = keras.layers.Layer.add_weight

    def wide():
        keras.layers.Dense(20_000).build((None, 600))

    failed = []

    def other():
        try:
            wide()
        except ModelError as error:
            failed.append(error)

    with pytest.raises(ModelError):
        with limit_weights(0, name="model"):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            wide()
    assert failed == []
    assert keras.layers.Layer.add_weight is original
    wide()


def upsampling(times: int):
    steps = [keras.layers.UpSampling2D(32, name=f"up_{number}") for number in range(times)]
    return keras.Sequential([keras.Input((8, 8, 1)), *steps])


def test_a_layer_with_a_huge_output_is_named():
    check_tensor_sizes(upsampling(2), "m.keras")
    with pytest.raises(ModelError, match=r"^m.keras: refused, size: the output of the layer 'up_2' has shape \?×"):
        check_tensor_sizes(upsampling(3), "m.keras")


def test_a_huge_output_in_a_nested_model_is_found():
    x = keras.Input((8, 8, 1))
    model = keras.Model(x, keras.layers.GlobalAveragePooling2D()(upsampling(3)(x)))
    with pytest.raises(ModelError, match="262144×262144"):
        check_tensor_sizes(model, "m.keras")


def test_a_huge_output_of_an_operator_is_found():
    x = keras.Input((1000,))
    y = keras.ops.matmul(keras.ops.expand_dims(x, 2), keras.ops.expand_dims(x, 1))
    check_tensor_sizes(keras.Model(x, y), "m.keras")
    with pytest.raises(ModelError, match="1000×1000000"):
        check_tensor_sizes(keras.Model(x, keras.ops.sum(keras.ops.tile(y, [1, 1, 1000]), axis=(1, 2))), "m.keras")


def test_any_size_and_models_without_a_graph_pass():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inside = keras.layers.Dense(2)

        def call(self, inputs):
            return self.inside(inputs)

    model = Subclassed()
    model(keras.ops.ones((1, 3)))
    check_tensor_sizes(model, "m.keras")
    x, same = keras.Input((None, None, 3)), keras.layers.Conv2D(3, 3)
    check_tensor_sizes(keras.Model(x, {"a": same(x), "b": same(same(x))}), "m.keras")
