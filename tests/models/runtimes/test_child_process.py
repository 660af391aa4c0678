"""`.tflite` and `.onnx` files in a process of their own: outputs, batches, files that crash or hang it."""

from __future__ import annotations

import gc
import importlib.util
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.errors import ModelError, UsageError
from kdcli.lazy import silence_descriptor
from kdcli.models.network import AmbiguousOutput
from kdcli.models.runtimes import child_process
from kdcli.models.runtimes.child_process import RUNTIME_OF_FORMAT, FileRunner
from kdcli.models.runtimes.file_tensor import FileTensor

pytest.importorskip("ai_edge_litert")


def saved(path: Path, layers, *, dtype="float32", int8=False, batch=None) -> Path:
    """A sequential model as a `.tflite` file."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 3), dtype=dtype), *layers])
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signature = [tf.TensorSpec((batch, 4, 3), dtype)]
        model.export(path.parent / "model", format="tf_saved_model", input_signature=signature, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path.parent / "model"))
        if int8:
            shown = np.random.default_rng(1).standard_normal((50, 1, 4, 3)).astype(np.float32)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([one] for one in shown)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        path.write_bytes(converter.convert())
    np.save(path.with_suffix(".npy"), model(examples(dtype)).numpy())
    return path


def dense():
    return [keras.layers.Flatten(), keras.layers.Dense(5)]


def examples(dtype="float32") -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((600, 4, 3))
    return (drawn * 50 + 128).clip(0, 255).astype(dtype) if dtype == "uint8" else drawn.astype(dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("litert")
    saved(folder / "float.tflite", dense())
    saved(folder / "int8.tflite", dense(), int8=True)
    saved(folder / "fixed.tflite", dense(), batch=7)
    saved(folder / "bytes.tflite", [keras.layers.Rescaling(1 / 255), *dense()], dtype="uint8")
    return folder


@pytest.mark.parametrize("name", ["float", "fixed"])
@pytest.mark.parametrize("count", [1, 7, 30, 600])
def test_batches_of_any_size_give_outputs(folder, name, count):
    with FileRunner(folder / f"{name}.tflite", threads=1) as child_process:
        assert child_process.batch == (7 if name == "fixed" else None)
        assert (child_process.runtime, child_process.threads, child_process.path.name) == (
            "litert",
            1,
            f"{name}.tflite",
        )
        results = child_process.predict(examples()[:count])
    assert results.dtype == np.float32
    np.testing.assert_allclose(results, np.load(folder / f"{name}.npy")[:count], atol=1e-5)


def test_tensors_are_described_without_the_batch_axis(folder):
    with FileRunner(folder / "float.tflite") as child_process:
        assert (child_process.input.shape, child_process.input.dtype, child_process.input.scale) == (
            (4, 3),
            "float32",
            None,
        )
        assert (child_process.output.shape, child_process.output.dtype) == ((5,), "float32")
        assert child_process.input.name and child_process.threads >= 1


def test_floats_are_quantized_and_outputs_dequantized(folder):
    with FileRunner(folder / "int8.tflite") as child_process:
        assert child_process.input.dtype == child_process.output.dtype == "int8"
        results = child_process.predict(examples())
        stored = child_process.input.encode(examples())
        assert stored.dtype == np.int8
        np.testing.assert_array_equal(child_process.predict(stored), results)
        steps = (results.astype(np.float64) / child_process.output.scale).round(3)
        np.testing.assert_array_equal(steps, steps.round())
    expected = np.load(folder / "int8.npy")
    assert np.abs(results - expected).mean() < 0.02 * np.abs(expected).max()


def test_bytes_are_passed_unchanged(folder):
    with FileRunner(folder / "bytes.tflite") as child_process:
        assert child_process.input.dtype == "uint8"
        raw = examples("uint8")
        np.testing.assert_allclose(child_process.predict(raw), np.load(folder / "bytes.npy"), atol=1e-5)
        # Integers of another type are the same bytes.
        np.testing.assert_array_equal(child_process.predict(raw.astype(np.int64)), child_process.predict(raw))
        with pytest.raises(ModelError, match="takes uint8, got values from 300 to 300"):
            child_process.predict(np.full((1, 4, 3), 300))


def test_a_quantized_tensor_rounds_and_clips():
    tensor = FileTensor("x", (2,), "uint8", 0.5, 10)
    stored = tensor.encode(np.array([[0.24, 0.26], [-100, 1000]]))
    assert stored.tolist() == [[10, 11], [0, 255]]
    assert tensor.decode(stored).tolist() == [[0.0, 0.5], [-5.0, 122.5]]
    assert FileTensor("x", (-1, 2), "int32", None, 0).encode(np.zeros((1, 9, 2))).dtype == np.int32


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4), (4, 3)])
def test_a_wrong_shape_is_refused_with_the_file_and_both_shapes(folder, shape):
    with FileRunner(folder / "float.tflite") as child_process:
        with pytest.raises(ModelError, match=r"float.tflite: the file takes examples of shape \(4, 3\), got"):
            child_process.predict(np.zeros(shape, np.float32))
        # The process still works.
        assert child_process.predict(examples()[:1]).shape == (1, 5)


@pytest.mark.parametrize("name", ["float", "fixed", "int8"])
def test_each_request_is_timed(folder, name):
    with FileRunner(folder / f"{name}.tflite", threads=1) as child_process:
        taken = child_process.time_block([examples()[:1], examples()[:50], examples()[:1]])
    assert taken.dtype == np.int64 and taken.shape == (3,)
    assert (taken > 0).all()


def test_closing_twice_ends_the_process(folder):
    child_process = FileRunner(folder / "float.tflite")
    child_process.close()
    child_process.close()
    assert child_process._process.returncode is not None
    with pytest.raises(ModelError, match="the LiteRT process is closed"):
        child_process.predict(examples()[:1])


def test_missing_files_and_other_formats_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no\.tflite: no such model file") as caught:
        FileRunner(tmp_path / "no.tflite")
    assert "kd export" in caught.value.hint
    (tmp_path / "text.tflite").write_text("hello, this is no model")
    with pytest.raises(ModelError, match=r"text\.tflite: not a \.tflite file"):
        FileRunner(tmp_path / "text.tflite")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A model with two inputs, one of them token ids, and two outputs, in both formats, with its outputs."""
    folder = tmp_path_factory.mktemp("two")
    keras.utils.set_random_seed(0)
    left, tokens = keras.Input((4,), name="left"), keras.Input((6,), dtype="int32", name="tokens")
    meant = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 5)(tokens))
    joined = keras.layers.Concatenate()([left, meant])
    outputs = {"label": keras.layers.Dense(3)(joined), "size": keras.layers.Dense(1)(joined)}
    model = keras.Model({"left": left, "tokens": tokens}, outputs)
    given = {"left": examples()[:9, :, 0], "tokens": (np.arange(54).reshape(9, 6) % 10).astype("int32")}
    results = {name: value.numpy() for name, value in model(given).items()}
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(folder / "model", format="tf_saved_model", verbose=False)
        content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "model")).convert()
        (folder / "two.tflite").write_bytes(content)
        if importlib.util.find_spec("tf2onnx"):
            model.export(folder / "two.onnx", format="onnx", verbose=False)
    np.savez(folder / "two.npz", **given, **results)
    return folder


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_several_inputs_and_one_of_several_outputs(two, form):
    path = two / f"two.{form}"
    with np.load(two / "two.npz") as file:
        known = dict(file)
    if not path.exists():
        pytest.skip("tf2onnx is not installed")
    with pytest.raises(AmbiguousOutput, match="has 2 outputs: ") as caught:
        FileRunner(path, threads=1)
    assert sorted(caught.value.names) == ["label", "size"]
    assert caught.value.hint.startswith("--output ")
    with pytest.raises(UsageError, match=r"no output 'lable'; did you mean 'label'\? outputs: "):
        FileRunner(path, output="lable", threads=1)
    with FileRunner(path, output="size", threads=1) as child_process:
        assert {one.name: (one.shape, one.dtype) for one in child_process.inputs} == {
            "left": ((4,), "float32"),
            "tokens": ((6,), "int32"),
        }
        assert (child_process.runtime, child_process.batch) == (RUNTIME_OF_FORMAT[form], None)
        batch = [known[one.name] for one in child_process.inputs]
        np.testing.assert_allclose(child_process.predict(batch), known["size"], atol=1e-6)
        assert (child_process.time_block([batch, tuple(batch)]) > 0).all()
        with pytest.raises(ModelError, match="the file takes 2 inputs, got 1"):
            child_process.predict(batch[0])
    with FileRunner(path, output="label", threads=1) as child_process:
        batch = [known[one.name] for one in child_process.inputs]
        np.testing.assert_allclose(child_process.predict(batch), known["label"], atol=1e-6)


def test_recurrent_layers_are_reset_between_batches(tmp_path):
    path = saved(tmp_path / "recurrent.tflite", [keras.layers.LSTM(5)], batch=1)
    with FileRunner(path, threads=1) as child_process:
        results = child_process.predict(examples()[:20])
        np.testing.assert_allclose(results, np.load(tmp_path / "recurrent.npy")[:20], atol=1e-6)
        np.testing.assert_array_equal(child_process.predict(examples()[:20]), results)


def test_the_process_ends_with_the_last_reference(folder):
    child_process = FileRunner(folder / "float.tflite", threads=1)
    process = child_process._process
    del child_process
    # The timer thread may hold a reference for a moment.
    for _ in range(400):
        gc.collect()
        if process.returncode is not None:
            break
        time.sleep(0.05)
    assert process.returncode is not None


def test_damaged_files_never_crash_this_process(folder, tmp_path):
    good = (folder / "float.tflite").read_bytes()
    random = np.random.default_rng(3)
    refused = 0
    for number in range(12):
        content = bytearray(good[: -len(good) // 3] if number % 4 == 0 else good)
        for position in random.integers(8, len(content), 3 * number):
            content[position] = random.integers(256)
        path = tmp_path / f"{number}.tflite"
        path.write_bytes(content)
        try:
            with FileRunner(path, threads=1) as child_process:
                child_process.predict(np.zeros((2, *child_process.input.shape), np.float32))
        except ModelError as error:
            assert error.message.startswith(f"{path}: ") and "\n" not in error.message
            refused += 1
    assert refused >= 6


# Replacements for the child process: what the interpreter would do to it with a damaged file.
CRASHING = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANGING = "import time; time.sleep(60)"
EXITING = "raise SystemExit(3)"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (CRASHING, r"the file crashed LiteRT \(signal 11, SIGSEGV\): it is damaged"),
        (HANGING, r"LiteRT did not finish within 0 s"),
        (EXITING, r"the LiteRT process failed \(exit code 3\)"),
    ],
    ids=["signal", "hang", "exit"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_crashes_or_hangs_is_a_model_error(folder, tmp_path, monkeypatch, script, message):
    (tmp_path / "child.py").write_text(script)
    monkeypatch.setattr(child_process.child_main, "__file__", str(tmp_path / "child.py"))
    if script == HANGING:
        monkeypatch.setattr(child_process, "_OPEN_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(ModelError, match=message) as caught:
        FileRunner(folder / "float.tflite")
    assert caught.value.exit_code == 4
    assert caught.value.message.startswith(f"{folder / 'float.tflite'}: ")


def test_a_missing_package_is_reported_before_a_process_starts(folder, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("kdcli.extras.find_spec", lambda name: None if name == "ai_edge_litert" else found(name))
    monkeypatch.setattr(child_process.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(ModelError, match="needs ai-edge-litert, which is not installed") as caught:
        FileRunner(folder / "float.tflite")
    assert caught.value.hint == "pip install ai-edge-litert"


def hostile_onnx(path: Path, kind: str) -> Path:
    """A file whose first run takes 1.6 GB, or never ends, which its content does not show."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, value = onnx.helper, onnx.helper.make_tensor_value_info
    if kind == "bomb":
        kept = [onnx.numpy_helper.from_array(np.array([20_000, 20_000]), "side")]
        nodes = [
            helper.make_node("Mul", ["side", "one"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["filled"]),
            helper.make_node("ReduceSum", ["filled"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ]
        kept.append(onnx.numpy_helper.from_array(np.array([1, 1]), "one"))
    else:
        kept = [onnx.numpy_helper.from_array(np.array(True), "on")]
        passing = [helper.make_node("Identity", [a], [b]) for a, b in (("go", "goes"), ("v", "w"))]
        inside = [value("i", 7, ()), value("go", 9, ()), value("v", 1, None)]
        body = helper.make_graph(passing, "body", inside, [value("goes", 9, ()), value("w", 1, None)])
        nodes = [helper.make_node("Loop", ["", "on", "x"], ["y"], body=body)]
    graph = helper.make_graph(nodes, "graph", [value("x", 1, (None, 4))], [value("y", 1, (None, 4))], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.serial
@pytest.mark.skipif(sys.platform != "linux", reason="memory limits")
def test_memory_of_a_file_is_limited(tmp_path):
    began = time.perf_counter()
    with pytest.raises(
        ModelError, match=r"bomb\.onnx: (onnxruntime cannot run the file|the onnxruntime process|the file crashed)"
    ):
        FileRunner(hostile_onnx(tmp_path / "bomb.onnx", "bomb"), threads=1)
    assert time.perf_counter() - began < 5


@pytest.mark.serial
def test_a_file_that_never_finishes_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(child_process, "_OPEN_TIMEOUT_SECONDS", 1.5)
    with pytest.raises(ModelError, match=r"loop\.onnx: onnxruntime did not finish within 2 s"):
        FileRunner(hostile_onnx(tmp_path / "loop.onnx", "loop"), threads=1)


def test_text_inputs_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value("x", 8, (None, 1))], [value("y", 8, (None, 1))])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "text.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"text\.onnx: 'x' holds string; kd feeds and reads numbers only"):
        FileRunner(tmp_path / "text.onnx", threads=1)
