"""Every format and quantization on three tiny models: written, opened again, compared."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs

from kdcli.errors import ModelError
from kdcli.exports import EXPORT_FORMATS, Litert
from kdcli.exports.format_choice import IO_TYPES, QUANTIZE_MODES, choose_formats
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import make_served_model
from kdcli.models.preprocessing import Preprocessing

FORMATS = [
    *((kind, "none") for kind in EXPORT_FORMATS if kind not in ("micro", "web")),
    ("micro", "int8"),
    ("web", "int8"),
    *(("litert", way) for way in QUANTIZE_MODES if way != "none"),
]
PACKAGES = {"litert": "ai_edge_litert", "onnx": "onnxruntime", "micro": "tflite_micro"}
PACKAGES["quantize"] = "litert_quantizer"
# Largest difference as a fraction of the largest output.
CLOSE = {"none": 1e-5, "float16": 2e-3, "dynamic": 0.05, "int8": 0.15}
CLOSE |= {"int8x16": 0.05, "int4": 0.5, "int4-weights": 0.5, "mixed": 0.15}


def image_network(*, last: str | None = None) -> tuple[KerasNetwork, np.ndarray]:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3, activation=last),
        ]
    )
    network = KerasNetwork(model, name="images")
    # Images of another size, without a channel axis, use every step of the preprocessing.
    preparation = Preprocessing((10, 12), "uint8", (8, 8, 1), "float32", "signed", (8, 8), "crop")
    raw = np.random.default_rng(0).integers(0, 256, (40, 10, 12), dtype=np.uint8)
    return network.with_preprocessing({"x": preparation}), raw


def values_network() -> tuple[KerasNetwork, np.ndarray]:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)])
    network = KerasNetwork(model, name="values")
    preparation = Preprocessing((5,), "float64", (5,), "float32", "unit")
    return network.with_preprocessing({"x": preparation}), np.random.default_rng(0).standard_normal((40, 5))


NETWORKS = {
    "logits": image_network,
    "probabilities": lambda: image_network(last="softmax"),
    "values": values_network,
}


def written(format_, network, raw, folder, capfd=None, **options):
    options = {"include_preprocessing": True, **options}
    options.setdefault("batch", format_.batch)
    serving = make_served_model(network, floats=format_.takes_floats, **options)
    if format_.from_data:
        serving = serving.shown({"x": raw})
    if format_.searches:
        serving = dataclasses.replace(serving, accepts=Path.exists)
    path = folder / format_.file_name("m")
    if capfd is not None:
        capfd.readouterr()
    format_.write(serving, path)
    if capfd is not None:
        # The output of converters is hidden.
        assert capfd.readouterr() == ("", "")
    assert sorted(entry.name for entry in folder.iterdir()) == [path.name]
    runner = format_.open(path)
    try:
        assert runner.runtime == format_.runtime
        assert runner.batch == options.get("batch")
        outputs = runner.predict(serving.convert_examples({"x": raw}))
        nanoseconds = runner.time_block([serving.convert_examples({"x": raw[:1]})] * 3)
    finally:
        runner.close()
    assert outputs.dtype == np.float32
    assert nanoseconds.dtype == np.int64 and nanoseconds.shape == (3,) and (nanoseconds > 0).all()
    return outputs


def expected(network, raw):
    return keras.ops.convert_to_numpy(network.compute_saved_output({"x": raw}))


@pytest.mark.parametrize(
    ("kind", "quantize", "model"),
    [(*one, model) for one, model in itertools.product(FORMATS, NETWORKS)],
    ids=lambda value: value,
)
def test_a_file_gives_the_outputs_of_its_model_for_raw_examples(kind, quantize, model, tmp_path, capfd):
    (format_,) = choose_formats([kind], quantize=[quantize] if kind == "litert" else [])
    for extra in format_.extras:
        pytest.importorskip(PACKAGES[extra])
    network, raw = NETWORKS[model]()
    outputs, wanted = written(format_, network, raw, tmp_path, capfd=capfd), expected(network, raw)
    assert np.abs(outputs - wanted).max() <= CLOSE[quantize] * np.abs(wanted).max()


@pytest.mark.parametrize("kind", [kind for kind in EXPORT_FORMATS if kind not in ("micro", "web")])
def test_preprocessing_outside_and_a_fixed_batch_size(kind, tmp_path):
    (format_,) = choose_formats([kind])
    if format_.extra:
        pytest.importorskip(PACKAGES[format_.extra])
    network, raw = image_network()
    outputs = written(format_, network, raw[:9], tmp_path, include_preprocessing=False, batch=4)
    assert make_served_model(network, include_preprocessing=False).shape == (8, 8, 1)
    np.testing.assert_allclose(outputs, expected(network, raw[:9]), atol=1e-5)


@pytest.mark.parametrize("io", IO_TYPES)
def test_io_sets_the_types_of_an_int8_file(io, tmp_path):
    pytest.importorskip("ai_edge_litert")
    from kdcli.models.runtimes.child_process import FileRunner

    network, raw = image_network()
    format_ = Litert(quantize="int8", io=io)
    outputs = written(format_, network, raw, tmp_path)
    wanted = expected(network, raw)
    assert np.abs(outputs - wanted).max() <= 0.15 * np.abs(wanted).max()
    with FileRunner(tmp_path / "m_int8.tflite") as runner:
        assert (runner.input.dtype, runner.output.dtype) == (io, io)
        if io == "uint8":
            # Stored bytes equal raw bytes.
            assert (runner.input.scale, runner.input.zero_point) == (1.0, 0)
            np.testing.assert_array_equal(runner.predict(raw), outputs)


def test_plain_keras_opens_the_keras_file_without_kd(tmp_path):
    import json
    import zipfile

    network, raw = image_network()
    (format_,) = choose_formats(["keras"])
    written(format_, network, raw, tmp_path)
    config = json.loads(zipfile.ZipFile(tmp_path / "m.keras").read("config.json"))
    modules = {layer["module"] for layer in config["config"]["layers"]}
    assert modules <= {"keras", "keras.layers", "keras.src.models.functional"}
    assert "kdcli" not in json.dumps(config)


def test_an_unsupported_model_is_an_error_of_one_line(tmp_path, capfd):
    pytest.importorskip("ai_edge_litert")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.real(keras.ops.fft((inputs, inputs))[0])))
    network = KerasNetwork(model, name="m").with_preprocessing(
        {"x": Preprocessing((8,), "float32", (8,), "float32")}
    )
    (format_,) = choose_formats(["litert"], quantize=["int8"])
    serving = make_served_model(network, include_preprocessing=True, floats=True).shown(
        {"x": blobs(10)[0].reshape(10, 64)[:, :8] / 255.0}
    )
    capfd.readouterr()
    with pytest.raises(ModelError, match=r"m_int8.tflite: the model cannot be converted with --quantize int8: "):
        format_.write(serving, tmp_path / "m_int8.tflite")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def recurrent_network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 3)), keras.layers.LSTM(4, name="memory"), keras.layers.Dense(2)])
    network = KerasNetwork(model, name="m")
    raw = np.random.default_rng(0).standard_normal((5, 6, 3)).astype(np.float32)
    return network.with_preprocessing({"x": Preprocessing((6, 3), "float32", (6, 3), "float32")}), raw


def test_recurrent_layers_need_a_fixed_batch_and_are_never_calibrated(tmp_path):
    pytest.importorskip("ai_edge_litert")
    network, raw = recurrent_network()
    plain, int8 = choose_formats(["litert"], quantize=["none", "int8"])
    with pytest.raises(ModelError, match=r"'tf\.TensorListReserve' op requires") as caught:
        plain.write(make_served_model(network, include_preprocessing=True), tmp_path / "m.tflite")
    assert caught.value.hint.startswith("--batch 1")
    with pytest.raises(ModelError, match=r"--quantize int8: the layer \S*memory is recurrent") as caught:
        int8.write(
            make_served_model(network, include_preprocessing=True, floats=True, batch=1).shown({"x": raw}),
            tmp_path / "m_int8.tflite",
        )
    assert caught.value.hint == "--quantize dynamic"
    assert list(tmp_path.iterdir()) == []
    outputs = written(plain, network, raw, tmp_path, batch=1)
    np.testing.assert_allclose(outputs, expected(network, raw), atol=1e-5)
