"""Cold starts: every format opens in a fresh process, whose memory is its own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.evaluation.latency.cold_start import measure_cold_start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cold")
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.save(folder / "m.keras")
    model.export(folder / "m_saved", verbose=False)
    import tensorflow as tf

    converted = tf.lite.TFLiteConverter.from_saved_model(str(folder / "m_saved")).convert()
    (folder / "m.tflite").write_bytes(converted)
    return folder


@pytest.mark.parametrize(
    ("name", "form"), [("m.tflite", "tflite"), ("m.keras", "keras"), ("m_saved", "saved_model")]
)
def test_a_start_is_the_sum_of_its_parts(folder, name, form):
    # The memory of this process must not count.
    held = np.ones(100_000_000, np.uint8)
    cold = measure_cold_start(folder / name, form, [((4, 4, 1), "float32")])
    assert held.size
    parts = cold.import_ms + cold.open_ms + cold.first_ms
    assert 0 < parts < cold.total_ms
    # LiteRT needs a fraction of the memory of TensorFlow, which this process has loaded too.
    assert cold.peak_mb < 150 if form == "tflite" else cold.peak_mb > 150


def test_a_file_that_does_not_open_is_an_error(folder, tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="a cold start failed"):
        measure_cold_start(tmp_path / "bad.tflite", "tflite", [((1,), "float32")])
