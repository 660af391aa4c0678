"""kd quantize: the file of quantization-aware training beside the one that is quantized after training."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.errors import Interrupted, ModelError, UsageError

layers = keras.layers


def build(*, factor=1.0):
    """A trained student; a factor widens the range of one channel, and the layer after it narrows it again."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False, name="first"),
            layers.BatchNormalization(momentum=0.8, name="normalization"),
            layers.ReLU(name="relu"),
            layers.Conv2D(8, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax", name="last"),
        ]
    )
    x, y = blobs(240, seed=3)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x / 255.0, y, epochs=15, batch_size=32, verbose=0)
    scale = np.ones(8, np.float32)
    scale[0] = factor
    normalization, second = model.get_layer("normalization"), model.get_layer("second")
    normalization.gamma.assign(normalization.gamma * scale)
    normalization.beta.assign(normalization.beta * scale)
    second.kernel.assign(second.kernel / scale[:, None])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize")
    save_npz(folder / "data.npz")
    build().save(folder / "student.keras")
    build(factor=1000.0).save(folder / "wide.keras")
    return folder


def quantize(folder, name, out, **options):
    options = {"settings": ["data.validation=0.3"], **options}
    return kdcli.quantize(folder / name, data=folder / "data.npz", out=out, **options)


def run_litert(path, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(given["index"])


def test_training_mends_a_model_with_wide_ranges(folder, tmp_path):
    result = quantize(folder, "wide.keras", tmp_path / "run", epochs=20)
    document = result.to_json()
    assert list(document) == [
        "schema", "student", "path", "picked", "metric", "model", "floats", "files", "doubts", "run", "gates"
    ]  # fmt: skip
    plain, after, trained = document["files"]
    assert document["picked"] == trained["name"] == "int8, trained"
    assert trained["validation"] > after["validation"]
    assert trained["test"] > after["test"]
    # The numbers are those of the files in plain LiteRT and Keras.
    with np.load(folder / "data.npz") as data:
        x, y = data["x_test"].reshape(-1, 8, 8, 1), data["y_test"]
    outputs = run_litert(result.model_path, x)
    assert trained["test"] == pytest.approx(np.mean(outputs.argmax(1) == y))
    expected = keras.saving.load_model(folder / "wide.keras").predict(x / 255.0, verbose=0)
    assert plain["test"] == pytest.approx(np.mean(expected.argmax(1) == y))
    assert trained["bytes"] == result.model_path.stat().st_size < plain["bytes"]
    student = keras.saving.load_model(tmp_path / "run" / "student.keras")
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in student.layers)


def test_without_a_gain_the_file_is_the_one_quantized_after_training(folder, tmp_path):
    # A learning rate of almost nothing: both files are equally good on validation.
    settings = ["data.validation=0.3", "train.optimizer.learning_rate=1e-9"]
    result = quantize(folder, "student.keras", tmp_path / "run", epochs=1, settings=settings)
    after, trained = result.to_json()["files"][1:]
    assert trained["validation"] == pytest.approx(after["validation"], abs=0.03)
    gained = trained["validation"] > after["validation"]
    assert result.document["picked"] == ("int8, trained" if gained else "int8, after training")
    assert result.model_path.stat().st_size == (trained if gained else after)["bytes"]


def test_a_stopped_training_ends_with_the_same_weights_and_file(folder, tmp_path):
    whole = quantize(folder, "wide.keras", tmp_path / "whole", epochs=3)
    calls = []

    def stop():
        calls.append(None)
        return 130 if len(calls) > 4 else None

    with pytest.raises(Interrupted):
        quantize(folder, "wide.keras", tmp_path / "halves", epochs=3, stop=stop)
    halves = quantize(folder, "wide.keras", tmp_path / "halves", epochs=3, resume=True)
    one, other = (keras.saving.load_model(run.run / "student.keras") for run in (whole, halves))
    for first, second in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    assert (whole.run / "ranges.json").read_text() == (halves.run / "ranges.json").read_text()
    assert whole.model_path.read_bytes() == halves.model_path.read_bytes()
    # A finished one is read back.
    again = quantize(folder, "wide.keras", tmp_path / "halves", epochs=3, resume=True)
    assert again.to_json() == halves.to_json()


def test_a_run_brings_its_data_and_its_teacher(kd, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = str(folder / "data.npz")
    distilled = kd(
        "distill", "--teacher", str(folder / "student.keras"), "--student", str(folder / "student.keras"),
        "--data", data, "--epochs", "1", "--out", "run", "--set", "student.start=fresh", "--no-preflight",
    )  # fmt: skip
    assert distilled.code == 0, distilled.err
    done = kd("quantize", "run", "--out", "q", "--epochs", "1", "--json")
    assert done.code == 0, done.err
    recipe = (tmp_path / "q" / "recipe.yaml").read_text()
    assert "quantize: int8" in recipe and f"path: {folder / 'student.keras'}" in recipe and "path: run\n" in recipe
    environment = json.loads((tmp_path / "q" / "environment.json").read_text())
    assert set(environment["inputs"]) == {"teacher.0", "teacher.1", "student", "data"}
    # A tenth of the learning rate of the run.
    from kdcli.recipe.reader import read_run_recipe

    rates = [
        read_run_recipe(tmp_path / name / "recipe.yaml").train.optimizer.learning_rate for name in ("run", "q")
    ]
    assert rates[1] == pytest.approx(rates[0] / 10)
    # The file opens with its own preprocessing, and the student with its ranges.
    assert kd("evaluate", "q/student.tflite", "--recipe", "q/recipe.yaml").code == 0
    evaluated = kd("evaluate", "q", "--json")
    summary = json.loads((tmp_path / "q" / "summary.json").read_text())
    assert evaluated.document["models"][0]["accuracy"] == summary["test"]["accuracy"]


def test_the_last_stage_of_a_recipe(kd, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "distill", "--teacher", str(folder / "student.keras"), "--student", str(folder / "student.keras"),
        "--data", str(folder / "data.npz"), "--epochs", "1", "--out", "run", "--no-preflight",
        "--set", "student.start=fresh", "--set", "train.quantize=int8",
    ]  # fmt: skip
    done = kd(*words, "--json")
    assert done.code == 0, done.err
    assert done.document["schema"] == "kd.run/1"
    assert done.document["quantized"]["schema"] == "kd.quantize/1"
    assert (tmp_path / "run" / "student.tflite").exists()
    assert (tmp_path / "run" / "stages" / "1" / "student.keras").exists()
    again = kd("distill", "--out", "run", "--resume", "--json")
    assert again.code == 0, again.err
    assert again.document["quantized"] == done.document["quantized"]


def test_a_chain_that_cannot_start_deletes_and_writes_nothing(kd, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["distill", "--teacher", str(folder / "student.keras"), "--student", str(folder / "student.keras")]
    words += ["--epochs", "1", "--out", "run", "--no-preflight", "--set", "student.start=fresh"]
    assert kd(*words, "--data", str(folder / "data.npz")).code == 0
    before = sorted(one.name for one in (tmp_path / "run").iterdir())
    quantized = [*words, "--set", "train.quantize=int8"]
    assert kd(*quantized, "--data", "missing.npz", "--overwrite").code != 0
    resumed = kd(*quantized, "--data", str(folder / "data.npz"), "--resume")
    assert resumed.code == 2 and "holds a run without train.quantize" in resumed.err
    assert sorted(one.name for one in (tmp_path / "run").iterdir()) == before
    assert kd(*words, "--data", str(folder / "data.npz"), "--resume").code == 0


def test_a_model_without_an_8_bit_file_is_refused_before_the_training(folder, tmp_path):
    inputs = keras.Input((8, 8, 1))
    gate = layers.Conv2D(4, 3, activation="sigmoid")(inputs)
    x = layers.Concatenate()([gate, layers.Conv2D(4, 3)(inputs)])
    keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))).save(tmp_path / "joined.keras")
    with pytest.raises(ModelError, match="joins the output of"):
        kdcli.quantize(
            tmp_path / "joined.keras", data=folder / "data.npz", out=tmp_path / "run", preflight=False,
            settings=["data.validation=0.3"],
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train-teacher", "compare", "compress"])
def test_other_commands_refuse_the_setting(kd, folder, tmp_path, command):
    words = {
        "train-teacher": ["--teacher", str(folder / "student.keras")],
        "compare": ["--teacher", str(folder / "student.keras"), "--student", str(folder / "student.keras")],
        "compress": [str(folder / "student.keras")],
    }[command]
    out = ["--out", str(tmp_path / "out")]
    done = kd(command, *words, "--data", str(folder / "data.npz"), "--set", "train.quantize=int8", *out)
    assert done.code == 2
    assert "train.quantize" in done.err
    assert not (tmp_path / "out").exists()


def test_bad_input(kd, folder, tmp_path):
    keras.saving.load_model(folder / "student.keras").export(tmp_path / "saved", verbose=False)
    done = kd("quantize", str(tmp_path / "saved"), "--data", "digits")
    assert done.code == 2 and "a SavedModel does not list its layers" in done.err
    done = kd("quantize", str(folder / "student.keras"))
    assert done.code == 2 and "no data" in done.err
    with pytest.raises(UsageError, match="validation"):
        quantize(folder, "student.keras", tmp_path / "run", settings=["data.validation=0.0"])


def test_a_gate_on_the_file_sets_the_exit_code(kd, folder, tmp_path):
    words = ["quantize", str(folder / "student.keras"), "--data", str(folder / "data.npz"), "--epochs", "1"]
    done = kd(*words, "--out", str(tmp_path / "run"), "--gate", "size_mb<=0.000001")
    assert done.code == 7
    assert "gate failed" in done.err
