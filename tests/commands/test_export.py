"""kd export: files that pass their gates are kept, with a description of their inputs and outputs."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.errors import ModelError, StorageError, UsageError
from kdcli.models.runtimes.child_process import FileRunner
from kdcli.runs import writer

METRICS = ("max_abs_diff", "agreement", "accuracy", "p50_ms")


def bars(*, last: str | None = None) -> keras.Model:
    """A model that sees the bar of each class in images from 0 to 1."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(3, activation=last)(keras.layers.Flatten()(inputs)))
    kernel = np.zeros((8, 8, 3), np.float32)
    for label in range(3):
        kernel[1 + 2 * label : 3 + 2 * label, :, label] = 0.6
    model.layers[-1].set_weights([kernel.reshape(64, 3), np.zeros(3, np.float32)])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    bars().save(folder / "student.keras")
    bars(last="softmax").save(folder / "softmax.keras")
    save_npz(folder / "data.npz")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """A run that records its data, its preprocessing and its class names."""
    (folder / "names.txt").write_text("low\nmiddle\nhigh\n")
    return kdcli.distill(
        teacher=folder / "softmax.keras",
        student=folder / "student.keras",
        data=folder / "data.npz",
        out=folder / "run",
        epochs=1,
        preflight=False,
        settings=[f"data.classes={folder / 'names.txt'}", "student.input.scale=signed"],
    ).run


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_exported_with_its_data_preprocessing_and_class_names(run, kd, tmp_path):
    pytest.importorskip("ai_edge_litert")
    words = ["--format", "tflite", "--quantize", "none", "--quantize", "int8", "--io", "uint8"]
    ran = kd("export", run, *words, "--out", "out", "--json")
    assert ran.code == 0
    document = ran.document
    assert document["schema"] == "kd.export/1"
    names = ["student.tflite", "student_int8.tflite"]
    assert [one["path"] for one in document["artifacts"]] == [f"out/{name}" for name in names]
    assert [one["quantize"] for one in document["artifacts"]] == ["none", "int8"]
    for one, name in zip(document["artifacts"], names, strict=True):
        assert one["format"] == "litert"
        assert one["bytes"] == (tmp_path / "out" / name).stat().st_size
        assert one["input"] == {"shape": [8, 8, 1], "dtype": "uint8", "range": [0.0, 255.0], "batch": None}
        assert all(one[metric] is not None for metric in METRICS)
        assert one["p50_ms"] > 0
        assert one["agreement"] >= 0.95 and one["accuracy"] >= 0.95
    assert document["artifacts"][0]["max_abs_diff"] < 1e-5
    assert [(gate["name"], gate["model"], gate["state"]) for gate in document["gates"]] == [
        ("export_drop", f"out/{name}", "passed") for name in names
    ]
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*names, "input.json", "labels.txt"])
    assert (tmp_path / "out" / "labels.txt").read_text() == "low\nmiddle\nhigh\n"
    taken = json.loads((tmp_path / "out" / "input.json").read_text())
    assert list(taken) == names
    assert taken["student_int8.tflite"] == {
        "shape": [8, 8, 1],
        "dtype": "uint8",
        "range": [0.0, 255.0],
        "batch": None,
        "prepare": "inside",
        "scale": "signed",
        "resize": None,
        "fit": None,
        "quantization": {"scale": 1.0, "zero_point": 0},
        "output_kind": "probabilities",
        "output_dtype": "uint8",
        "output_quantization": taken["student_int8.tflite"]["output_quantization"],
        "classes": 3,
    }
    assert taken["student_int8.tflite"]["output_quantization"]["scale"] > 0
    assert "next:" not in ran.err
    # These files alone give the same decisions for raw bytes.
    raw, labels = blobs(48, seed=1)
    with FileRunner(tmp_path / "out" / "student_int8.tflite") as runner:
        assert (runner.predict(raw).argmax(-1) == labels).mean() == document["artifacts"][1]["accuracy"]
    evaluated = kd("evaluate", "out/student_int8.tflite", "--data", str(run.parent / "data.npz"), "--json")
    assert evaluated.document["models"][0]["accuracy"] == document["artifacts"][1]["accuracy"]


@pytest.mark.parametrize("kind", ["teacher", "logits"])
def test_a_student_file_has_the_output_kind_of_its_teacher(run, here, kind):
    pytest.importorskip("ai_edge_litert")
    request = {} if kind == "teacher" else {"output_kind": kind}
    exported = kdcli.export(
        run, formats=["keras", "litert"], quantize=["none", "int8"], out="out", latency=False, **request
    )
    raw, _ = blobs(20, seed=3)
    logits = keras.saving.load_model(run / "student.keras").predict(raw / np.float32(127.5) - 1, verbose=0)
    expected = logits if kind == "logits" else keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    name = "logits" if kind == "logits" else "probabilities"
    plain = keras.saving.load_model("out/student.keras")
    np.testing.assert_allclose(plain.predict(raw, verbose=0), expected, atol=1e-4)
    for file in ("student.tflite", "student_int8.tflite"):
        with FileRunner(Path("out") / file) as runner:
            # Raw bytes go in and floats come out, with every quantization.
            assert (runner.input.dtype, runner.output.dtype) == ("uint8", "float32")
            np.testing.assert_allclose(runner.predict(raw), expected, atol=0.06 * np.abs(expected).max())
    taken = json.loads(Path("out/input.json").read_text())
    assert {one["output_kind"] for one in taken.values()} == {name}
    assert {one.to_json()["output"]["kind"] for one in exported.artifacts} == {name}


def test_other_formats_are_written_when_one_fails(folder, kd, tmp_path, monkeypatch):
    from kdcli.exports import Onnx

    def write(self, serving, path):
        path.write_bytes(b"half")
        raise ModelError(
            f"{path.name}: the model cannot be converted to ONNX: no such operation", hint="--format x"
        )

    monkeypatch.setattr(Onnx, "write", write)
    monkeypatch.setattr("kdcli.extras.find_spec", lambda name: True)
    words = [
        "--format",
        "keras",
        "--format",
        "onnx",
        "--data",
        folder / "data.npz",
        "--no-latency",
        "--out",
        "out",
    ]
    ran = kd("export", folder / "student.keras", *words, "--json")
    assert ran.code == 4
    assert [one["path"] for one in ran.document["artifacts"]] == ["out/student.keras"]
    message = "student.onnx: the model cannot be converted to ONNX: no such operation"
    assert ran.document["failures"] == [
        {"name": "student.onnx", "format": "onnx", "quantize": None, "message": message, "hint": "--format x"}
    ]
    assert ran.err.splitlines()[-2:] == [f"error: {message}", "hint: --format x"]
    assert sorted(os.listdir(tmp_path / "out")) == ["input.json", "labels.txt", "student.keras"]
    alone = kd("export", folder / "student.keras", "--format", "onnx", "--no-latency", "--out", "other")
    assert (alone.code, alone.out, (tmp_path / "other").exists()) == (4, "", False)


def test_a_model_that_converts_only_for_a_batch_of_one_is_written_with_a_warning(kd, tmp_path):
    pytest.importorskip("ai_edge_litert")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.LSTM(4)(keras.layers.Embedding(20, 4, mask_zero=True)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.save("text.keras")
    words = np.random.default_rng(0).integers(1, 20, (60, 6), dtype=np.int32)
    expected = model.predict(words, verbose=0)
    labels = (expected[:, 0] > np.median(expected)).astype(int)
    np.savez("text.npz", x_train=words, y_train=labels, x_test=words, y_test=labels)
    ran = kd("export", "text.keras", "--data", "text.npz", "--format", "litert", "--no-latency", "--out", "out")
    assert ran.code == 0
    assert "warning: text.tflite: takes one example at a time" in ran.err and ", batch 1" in ran.out
    with FileRunner(tmp_path / "out" / "text.tflite") as runner:
        assert runner.batch == 1
        np.testing.assert_allclose(runner.predict(words), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["saved-model", "keras-2"])
def test_a_graph_is_converted_from_its_frozen_form(kind, kd, tmp_path):
    import tensorflow as tf

    pytest.importorskip("ai_edge_litert")
    tf_keras = pytest.importorskip("tf_keras")
    raw = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [layers.Conv2D(4, 3, input_shape=(8, 8, 1)), layers.DepthwiseConv2D(3), layers.Flatten(), layers.Dense(3)]
    )
    if kind == "keras-2":
        with pytest.warns(UserWarning, match="HDF5"):
            model.save("given.h5")
    else:
        tf.saved_model.save(model, "given_saved_model")
    expected = model.predict(raw / 127.5 - 1, verbose=0)
    np.savez("data.npz", x_train=raw, y_train=expected.argmax(-1), x_test=raw, y_test=expected.argmax(-1))
    file = "given.h5" if kind == "keras-2" else "given_saved_model"
    words = ["--format", "litert", "--format", "saved-model", "--format", "keras", "--no-latency", "--out", "out"]
    words += ["--set", "student.input.scale=signed"]
    ran = kd("export", file, "--data", "data.npz", *words, "--max-export-drop", "1", "--json")
    assert ran.code == 4
    assert ran.err.splitlines()[-2:] == [
        "error: given.keras: only a model that Keras 3 opens can be written as .keras",
        "hint: --format saved-model",
    ]
    assert [one["path"] for one in ran.document["artifacts"]] == ["out/given.tflite", "out/given_saved_model"]
    with FileRunner(tmp_path / "out" / "given.tflite") as runner:
        np.testing.assert_allclose(runner.predict(raw), expected, atol=1e-4)
    serve = tf.saved_model.load("out/given_saved_model").signatures["serving_default"]
    np.testing.assert_allclose(next(iter(serve(input=raw).values())), expected, atol=1e-4)


def test_every_format_is_written(folder, here):
    for package in ("ai_edge_litert", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    exported = kdcli.export(
        folder / "softmax.keras",
        formats=["keras", "saved-model", "litert", "onnx"],
        data=folder / "data.npz",
        latency=False,
        batch=2,
    )
    (made,) = (here / "runs").iterdir()
    assert exported.path == exported.out == Path("runs") / made.name
    assert made.name.endswith("_export_softmax")
    files = {"softmax.keras", "softmax_saved_model", "softmax.tflite", "softmax.onnx"}
    assert set(os.listdir(made)) == files | {"input.json", "labels.txt"}
    taken = json.loads((made / "input.json").read_text())
    assert exported.failures == ()
    for artifact in exported.artifacts:
        assert artifact.max_abs_diff < 1e-5 and artifact.agreement == 1.0 and artifact.p50_ms is None
        assert taken[artifact.name]["output_kind"] == "probabilities"
        assert (taken[artifact.name]["batch"], taken[artifact.name]["scale"]) == (2, "unit")
    plain = keras.saving.load_model(made / "softmax.keras")
    raw, _ = blobs(2, seed=5)
    np.testing.assert_allclose(plain(raw).numpy(), bars(last="softmax")(raw / np.float32(255)).numpy(), atol=1e-6)


def test_regression_files_are_compared_by_variance(here):
    random = np.random.default_rng(0)
    x = random.standard_normal((80, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.save("values.keras")
    exported = kdcli.export("values.keras", formats=["keras"], data=(x, x[:, :2] * 2.5), out="out", latency=False)
    (gate,) = exported.gates
    assert (gate.name, gate.state, gate.value) == ("unexplained", "passed", 0.0)
    assert sorted(os.listdir("out")) == ["input.json", "values.keras"]
    taken = json.loads(Path("out/input.json").read_text())["values.keras"]
    assert (taken["dtype"], taken["range"], taken["scale"]) == ("float32", None, None)


def test_without_data_files_take_what_the_model_takes(folder, kd, tmp_path):
    ran = kd("export", folder / "student.keras", "--format", "keras", "--out", "out", "--json")
    assert ran.code == 0
    assert "warning: no data: files take the same inputs as the model" in ran.err
    (artifact,) = ran.document["artifacts"]
    assert (artifact["agreement"], artifact["accuracy"], ran.document["split"]) == (None, None, None)
    assert artifact["max_abs_diff"] < 1e-5
    assert artifact["input"] == {"shape": [8, 8, 1], "dtype": "float32", "range": None, "batch": None}
    assert sorted(os.listdir(tmp_path / "out")) == ["input.json", "student.keras"]
    assert json.loads((tmp_path / "out" / "input.json").read_text())["student.keras"]["prepare"] == "outside"


@pytest.fixture
def spoiling(monkeypatch):
    """A converter that writes .keras files with other outputs than the model's."""
    from kdcli.exports import Keras

    honest = Keras.write

    def write(self, serving, path):
        layer = serving.model.layers[-1].layers[-1]
        kernel, bias = layer.get_weights()
        layer.set_weights([np.roll(kernel, 1, axis=1), bias])
        honest(self, serving, path)
        layer.set_weights([kernel, bias])

    monkeypatch.setattr(Keras, "write", write)


@pytest.mark.usefixtures("spoiling")
def test_a_file_with_other_decisions_is_not_kept(folder, kd, tmp_path):
    words = ["--format", "saved-model", "--format", "keras", "--data", folder / "data.npz", "--no-latency"]
    ran = kd("export", folder / "student.keras", *words, "--out", "out", "--json")
    assert ran.code == 7
    first, second = ran.document["artifacts"]
    assert (first["path"], second["path"]) == ("out/student_saved_model", None)
    assert second["accuracy"] < 0.5 < first["accuracy"]
    assert [(gate["model"], gate["state"]) for gate in ran.document["gates"]] == [
        ("out/student_saved_model", "passed"),
        ("out/student.keras", "failed"),
    ]
    assert "gate failed: out/student.keras: export_drop is" in ran.err
    assert sorted(os.listdir(tmp_path / "out")) == ["input.json", "labels.txt", "student_saved_model"]
    assert list(json.loads((tmp_path / "out" / "input.json").read_text())) == ["student_saved_model"]


@pytest.mark.usefixtures("spoiling")
@pytest.mark.parametrize("bound", [[], ["--max-export-drop", "1"]], ids=["default", "loose"])
def test_when_no_file_passes_nothing_is_written(folder, kd, tmp_path, bound):
    words = ["--format", "keras", "--data", folder / "data.npz", "--no-latency", *bound]
    ran = kd("export", folder / "student.keras", *words, "--out", "deep/out", "--quiet")
    assert (ran.code, ran.out) == ((7, "") if not bound else (0, "deep/out/student.keras\n"))
    assert (tmp_path / "deep").exists() == bool(bound)


@pytest.mark.usefixtures("spoiling")
def test_without_labels_changed_decisions_are_compared(folder, here):
    raw, _ = blobs(60)
    exported = kdcli.export(folder / "student.keras", formats=["keras"], data={"x": raw}, out="out", latency=False)
    (gate,) = exported.gates
    assert (gate.name, gate.bound, gate.state) == ("export_agreement", ">= 0.99", "failed")
    assert exported.path is None and not (here / "out").exists()


@pytest.fixture(scope="module")
def worse(folder):
    """A run whose student is worse than its teacher."""
    student = bars()
    kernel, bias = student.layers[-1].get_weights()
    student.layers[-1].set_weights([kernel * np.array([1, 1, -1], np.float32), bias])
    student.save(folder / "worse.keras")
    return kdcli.distill(
        teacher=folder / "softmax.keras",
        student=folder / "worse.keras",
        data=folder / "data.npz",
        out=folder / "worse",
        settings=["train.optimizer.learning_rate=1e-9"],
        epochs=1,
    ).run


def test_accuracy_drop_and_agreement_refer_to_the_teacher_of_the_run(worse, folder, kd, tmp_path):
    words = ["--format", "keras", "--no-latency", "--max-accuracy-drop", "0.1", "--min-agreement", "0.1"]
    ran = kd("export", worse, *words, "--max-export-drop", "0.02", "--out", "out", "--json")
    assert ran.code == 7
    raw, labels = blobs(48, seed=1)
    file = keras.saving.load_model(tmp_path / "out" / "student.keras")(raw).numpy().argmax(-1)
    teacher = keras.saving.load_model(folder / "softmax.keras")(raw / np.float32(255)).numpy().argmax(-1)
    gates = {gate["name"]: gate for gate in ran.document["gates"]}
    assert gates["accuracy_drop"]["value"] == pytest.approx((teacher == labels).mean() - (file == labels).mean())
    assert gates["accuracy_drop"]["value"] > 0.2 and gates["accuracy_drop"]["state"] == "failed"
    assert gates["agreement"]["value"] == pytest.approx((teacher == file).mean())
    assert (gates["export_drop"]["value"], gates["export_drop"]["bound"]) == (0.0, "<= 0.02")
    # The file equals its model: it is kept, and every gate names it.
    assert {gate["model"] for gate in gates.values()} == {"out/student.keras"}
    assert ran.document["artifacts"][0]["path"] == "out/student.keras"


def test_a_latency_ratio_refers_to_the_teacher_in_the_same_format(worse, kd):
    pytest.importorskip("ai_edge_litert")
    words = [
        "--format",
        "keras",
        "--format",
        "litert",
        "--gate",
        "latency_ratio<=1000",
        "--gate",
        "latency_ratio>=0",
    ]
    ran = kd("export", worse, *words, "--out", "out", "--json")
    assert ran.code == 0
    ratios = [gate["value"] for gate in ran.document["gates"] if gate["name"] == "latency_ratio"]
    # Both models have the same size; in different runtimes they would differ by a factor of 20.
    assert len(ratios) == 4 and all(0.2 < ratio < 5 for ratio in ratios)


def test_a_missing_teacher_is_named_with_a_hint(worse, folder, kd, tmp_path):
    shutil.copytree(worse, tmp_path / "run")
    recipe = (worse / "recipe.yaml").read_text().replace("softmax.keras", "gone.keras")
    (tmp_path / "run" / "recipe.yaml").write_text(recipe)
    words = ["export", "run", "--format", "keras", "--no-latency", "--max-accuracy-drop", "0.5"]
    ran = kd(*words)
    assert ran.code == 4
    assert ran.err.splitlines()[-2:] == [
        f"error: run: the teacher of this run, {folder / 'gone.keras'}, does not exist",
        "hint: --set 'teacher.model={kind: file, path: FILE}' says where it is",
    ]
    there = f"teacher.model={{kind: file, path: {folder / 'softmax.keras'}}}"
    assert kd(*words, "--set", there, "--out", "out").code == 0


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            ["--max-accuracy-drop", "0.1"],
            "there is no teacher",
            "--gate 'export_drop<=0.1' compares with the exported model",
        ),
        (
            ["--min-agreement", "0.9"],
            "there is no teacher",
            "--gate 'export_agreement>=0.9' compares with the exported model",
        ),
        (["--max-latency-ratio", "1"], "there is no teacher", "kd evaluate MODEL --teacher FILE --latency"),
        (["--min-gain", "0.01"], "only kd compare trains", "kd compare --distilled RUN --gate 'gain>=0.01'"),
    ],
)
def test_gates_that_need_a_teacher_are_refused_without_one(folder, kd, tmp_path, words, message, hint):
    data = ["--data", folder / "data.npz", "--format", "keras"]
    ran = kd("export", folder / "student.keras", *data, *words)
    assert ran.code == 2
    assert message in ran.err.splitlines()[0] and hint in ran.err.splitlines()[1]
    assert os.listdir(tmp_path) == []


def test_other_failed_gates_keep_the_file(folder, kd, tmp_path):
    words = ["--format", "keras", "--data", folder / "data.npz", "--no-latency", "--max-size-mb", "0.000001"]
    ran = kd("export", folder / "student.keras", *words, "--out", "out", "--json")
    assert ran.code == 7
    assert {gate["name"]: gate["state"] for gate in ran.document["gates"]} == {
        "size_mb": "failed",
        "export_drop": "passed",
    }
    assert (tmp_path / "out" / "student.keras").exists()


def test_only_files_of_the_requested_runtime_are_timed(folder, here):
    exported = kdcli.export(
        folder / "student.keras", formats=["keras"], data=folder / "data.npz", runtime="tensorflow", out="out"
    )
    assert exported.artifacts[0].p50_ms > 0
    with pytest.raises(UsageError, match="--runtime litert: no requested format uses this runtime"):
        kdcli.export(folder / "student.keras", formats=["keras"], runtime="litert")


@pytest.mark.parametrize("at", range(4))
def test_a_full_disk_leaves_nothing(folder, here, monkeypatch, at):
    calls: list[str] = []

    def hook(step, path):
        calls.append(step)
        if len(calls) == at + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "hook", hook)
    with pytest.raises(StorageError, match="disk full"):
        kdcli.export(folder / "student.keras", formats=["keras"], out="out", latency=False)
    assert os.listdir(here) == []


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (["--format", "coreml"], 2, "--format must be one of", "coremltools converts a SavedModel: --format"),
        (["--format", "litert", "--quantize", "fp16"], 2, "--quantize must be one of", "--quantize float16"),
        (["--format", "litert", "--quantize", "int8"], 2, "--quantize int8 is calibrated on", "--data D"),
        (
            ["--format", "keras", "--prepare", "inside"],
            2,
            "--prepare inside: raw examples are",
            "--data D",
        ),
        (["--format", "keras", "--prepare", "around"], 2, "--prepare must be one of inside, outside", None),
        (["--format", "keras", "--limit", "5"], 2, "--limit has no effect without data", "--data D"),
        (["--format", "keras", "--output-kind", "scores"], 2, "--output-kind must be one of teacher,", None),
        (["--format", "keras", "--split", "some"], 2, "--split must be one of", None),
        (["--format", "keras", "--set", "train.seed=1"], 2, "--set has no effect without data", "--data D"),
        (
            ["--format", "keras", "--min-accuracy", "0.5"],
            2,
            "gate accuracy >= 0.5: measuring",
            "--data D",
        ),
        (["--format", "keras", "--min-gain", "0.5"], 2, "gate gain >= 0.5: kd export does not measure it", None),
        (
            ["--format", "keras", "--runtime", "litert", "--no-latency"],
            2,
            "--runtime has no effect",
            None,
        ),
        (["--format", "keras", "--batch", "0"], 2, "--batch must be >= 1, got '0'", "hint: kd export --help"),
        ([], 2, "Missing option '--format'", None),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(folder, kd, tmp_path, words, code, message, hint):
    ran = kd("export", folder / "student.keras", *words)
    assert ran.code == code
    assert ran.out == "" and message in ran.err.splitlines()[0]
    if hint:
        assert hint in ran.err.splitlines()[1]
    assert os.listdir(tmp_path) == []


def test_a_missing_extra_is_reported_before_any_work(folder, kd, tmp_path, monkeypatch):
    monkeypatch.setattr("kdcli.extras.find_spec", lambda name: None)
    ran = kd("export", folder / "student.keras", "--format", "onnx")
    assert ran.code == 4
    assert ran.err.splitlines() == [
        "error: --format onnx needs onnx and onnxruntime and tf2onnx, which are not installed",
        "hint: pip install onnx onnxruntime tf2onnx",
    ]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("there", ["file", "folder"])
def test_an_output_folder_that_is_not_empty_is_refused(folder, kd, tmp_path, there):
    held = tmp_path / "out" if there == "file" else tmp_path / "out" / "mine"
    held.parent.mkdir(exist_ok=True)
    held.write_text("mine")
    ran = kd("export", folder / "student.keras", "--format", "keras", "--out", "out")
    what = "is a file, not a folder" if there == "file" else "is not empty"
    assert (ran.code, ran.err.splitlines()[0]) == (2, f"error: --out out {what}")
    assert held.read_text() == "mine"


def test_data_of_another_shape_is_refused_before_converting(folder, here):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.save("colour.keras")
    with pytest.raises(ModelError, match=r"takes inputs of shape 8×8×3, the data has 8×8×1"):
        kdcli.export("colour.keras", formats=["litert"], quantize=["int8"], data=folder / "data.npz", out="out")
    assert os.listdir(here) == ["colour.keras"]


def test_missing_and_damaged_models_are_refused(kd, tmp_path):
    assert kd("export", "no.keras", "--format", "keras").code == 4
    (tmp_path / "a.tflite").write_bytes(b"\0\0\0\0TFL3")
    ran = kd("export", "a.tflite", "--format", "keras")
    assert ran.code == 4 and "refused, damaged: the model has no subgraph" in ran.err


def test_an_8_bit_file_of_probabilities_is_recognized_by_every_command(folder, here):
    bars(last="softmax").save("soft.keras")
    exported = kdcli.export(
        "soft.keras", data=folder / "data.npz", formats=["litert"], quantize=["int8"], latency=False, out="x"
    )
    path = exported.artifacts[0].path
    evaluated = kdcli.evaluate(path, data=folder / "data.npz").models[0].quality
    assert evaluated.accuracy == exported.artifacts[0].accuracy
    # A setting for the model's output kind does not apply to the exported file.
    logits = kdcli.evaluate(path, data=folder / "data.npz", settings=["student.output_kind=logits"])
    assert logits.models[0].quality.loss == evaluated.loss
    plan = kdcli.distill(
        teacher=path, student=bars(), data=folder / "data.npz", settings=["student.start=fresh"], dry_run=True
    )
    assert plan.teacher["output_kind"] == "probabilities"


def test_every_format_and_the_smallest_file_that_passes(kd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_npz(tmp_path / "data.npz")
    bars().save("given.keras")
    words = ["export", "given.keras", "--data", "data.npz", "--format", "all", "--pick", "smallest"]
    ran = kd(*words, "--out", "out", "--json", "--no-latency", "--gate", "export_drop<=0.02")
    assert ran.code == 0, ran.err
    written = [one for one in ran.document["artifacts"] if one["path"]]
    kinds = {one["format"] for one in ran.document["artifacts"]}
    assert {"keras", "saved-model", "litert"} <= kinds
    assert ran.document["picked"] == min(written, key=lambda one: one["bytes"])["path"]
    for one in written:
        assert one["low"] - 1e-9 <= one["accuracy"] <= one["high"] + 1e-9
    quiet = kd(*words, "--out", "again", "--quiet", "--no-latency", "--gate", "export_drop<=0.02")
    assert quiet.out.strip() == ran.document["picked"].replace("out/", "again/")


def uneven_bars() -> keras.Model:
    """The model of bars behind a hidden value that is 10,000 times larger than the others, and has no effect."""
    source = bars()
    hidden, last = keras.layers.Dense(4), keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), hidden, last])
    kernel = source.layers[-1].kernel.numpy()
    hidden.set_weights([np.concatenate([kernel, np.full((64, 1), 1e4)], 1), np.zeros(4)])
    last.set_weights([np.eye(4, 3), np.zeros(3)])
    return model


def test_a_mixed_file_keeps_decisions_that_8_bits_lose(kd, tmp_path):
    pytest.importorskip("litert_quantizer")
    model = uneven_bars()
    model.save("m.keras")
    with np.load(save_npz(tmp_path / "data.npz")) as data:
        inputs, labels = data["x_test"], data["y_test"]
    words = ["--format", "litert", "--quantize", "int8", "--quantize", "mixed", "--no-latency"]
    ran = kd("export", "m.keras", "--data", "data.npz", *words, "--out", "out", "--json")
    assert ran.code == 7, ran.err
    assert {Path(one["path"]).name for one in ran.document["artifacts"] if one["path"]} == {"m_mixed.tflite"}
    with FileRunner(tmp_path / "out" / "m_mixed.tflite") as runner:
        found = runner.predict(inputs.astype(np.float32)).argmax(-1)
    expected = model.predict(inputs.reshape(-1, 8, 8, 1) / 255.0, verbose=0).argmax(-1)
    assert (found == labels).mean() >= (expected == labels).mean() - 0.01
    counts = re.search(r"m_mixed.tflite: (\d+) of (\d+) operations stay in float32", ran.err)
    assert counts is not None and 0 < int(counts[1]) < int(counts[2])


def test_a_mixed_file_needs_validation_examples(folder, kd):
    pytest.importorskip("litert_quantizer")
    words = ["--format", "litert", "--quantize", "mixed", "--set", "data.validation=0", "--out", "out"]
    ran = kd("export", str(folder / "student.keras"), "--data", str(folder / "data.npz"), *words)
    assert ran.code == 2
    assert "--quantize mixed: the data has no validation split" in ran.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "all", "--format", "keras"], "--format keras has no effect beside --format all"),
        (["--format", "all", "--quantize", "int8"], "--quantize int8 has no effect beside --format all"),
        (["--format", "keras", "--pick", "tiny"], "--pick must be one of smallest, fastest, best"),
        (["--format", "keras", "--pick", "fastest", "--no-latency"], "--pick fastest has no effect"),
    ],
)
def test_wishes_that_have_no_effect(kd, tmp_path, options, message):
    save_npz(tmp_path / "data.npz")
    bars().save(tmp_path / "given.keras")
    ran = kd("export", str(tmp_path / "given.keras"), "--data", str(tmp_path / "data.npz"), *options)
    assert ran.code == 2
    assert message in ran.err
