"""`.tflite` and `.onnx` teachers train the same student as the Keras model from which they were exported."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import bar_reader, save_npz

import kdcli
from kdcli.errors import ModelError
from kdcli.lazy import silence_descriptor
from kdcli.models.runtimes.child_process import FileRunner

pytest.importorskip("ai_edge_litert")
pytest.importorskip("tf2onnx")
FORMATS = ("tflite", "onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runners")
    save_npz(folder / "data.npz")
    teacher = bar_reader()
    teacher(np.zeros((1, 8, 8, 1), np.float32))
    teacher.save(folder / "teacher.keras")
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        teacher.export(folder / "teacher.onnx", format="onnx", verbose=False)
        teacher.export(folder / "graph", format="tf_saved_model", verbose=False)
        content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "graph")).convert()
        (folder / "teacher.tflite").write_bytes(content)
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    keras.Sequential(layers).save(folder / "student.keras")
    return folder


def distill(folder, out, format_name, **options):
    given = {"student": folder / "student.keras", "data": folder / "data.npz", "epochs": 2}
    return kdcli.distill(teacher=folder / f"teacher.{format_name}", out=out, **{**given, **options})


@pytest.mark.parametrize("targets", ["memory", "live"])
def test_the_student_equals_that_of_the_keras_teacher(folder, tmp_path, targets):
    settings = ["train.batch_size=16", f"teacher.targets={targets}"]
    runs = {
        format_name: distill(folder, tmp_path / format_name, format_name, settings=settings)
        for format_name in ("keras", *FORMATS)
    }
    weights = {
        format_name: keras.saving.load_model(run.model_path).get_weights() for format_name, run in runs.items()
    }
    expected = runs["keras"].to_json()
    for format_name in FORMATS:
        for one, other in zip(weights[format_name], weights["keras"], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        document = runs[format_name].to_json()
        assert document["targets"]["mode"] == targets
        assert document["teacher"]["accuracy"] == expected["teacher"]["accuracy"]


@pytest.mark.parametrize("format_name", FORMATS)
def test_inner_layers_are_refused_before_training(folder, tmp_path, format_name):
    with pytest.raises(ModelError, match=r"losses\.hint compares inner layers, .* the teacher .* not accessible"):
        distill(folder, tmp_path / "out", format_name, recipe={"losses": [{"kind": "hint"}]})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format_name", FORMATS)
def test_an_exported_file_is_refused_as_a_student(folder, tmp_path, format_name):
    with pytest.raises(ModelError, match="can be run, but not trained") as caught:
        distill(folder, tmp_path / "out", "keras", student=folder / f"teacher.{format_name}")
    assert "it was made from" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_runtime_that_crashes_during_training_is_a_model_error(folder, tmp_path, monkeypatch):
    predict = FileRunner.predict
    sizes = []

    def predict_and_crash(runner, batch):
        sizes.append(len(batch[0]))
        # Batches of 16 are training steps.
        if sizes.count(16) == 4:
            runner._process.kill()
        return predict(runner, batch)

    monkeypatch.setattr(FileRunner, "predict", predict_and_crash)
    with pytest.raises(ModelError, match=r"teacher\.tflite: the file crashed LiteRT .signal 9, SIGKILL."):
        distill(folder, tmp_path / "out", "tflite", settings=["train.batch_size=16", "teacher.targets=live"])


def test_all_formats_have_the_same_quality(folder):
    found = kdcli.evaluate(
        *[folder / f"teacher.{format_name}" for format_name in ("keras", *FORMATS)],
        data=folder / "data.npz",
        latency=False,
    )
    models = found.to_json()["models"]
    assert [model["format"] for model in models] == ["keras", *FORMATS]
    assert len({model["accuracy"] for model in models}) == 1
    assert np.ptp([model["loss"] for model in models]) < 1e-6
