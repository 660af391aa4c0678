"""A small file that declares large layers is refused before they are allocated."""

from __future__ import annotations

import json
import resource
import threading

import h5py
import keras
import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.models.keras.size_limits import limit_weights
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
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4), keras.layers.LSTM(2) and keras.layers.Dense(2)]
    )
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
