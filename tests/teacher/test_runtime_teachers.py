"""`.tflite` and `.onnx` files as teachers for outputs: the same student as from the Keras model they came from."""

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
from kdcli.models.runtimes.runner import FileRunner

pytest.importorskip("ai_edge_litert")
pytest.importorskip("tf2onnx")
FORMS = ("tflite", "onnx")


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


def distilled(folder, out, form, **options):
    given = {"student": folder / "student.keras", "data": folder / "data.npz", "epochs": 2}
    return kdcli.distill(teacher=folder / f"teacher.{form}", out=out, **{**given, **options})


@pytest.mark.parametrize("targets", ["memory", "live"])
def test_students_are_those_of_the_keras_model(folder, tmp_path, targets):
    settings = ["train.batch_size=16", f"teacher.targets={targets}"]
    runs = {form: distilled(folder, tmp_path / form, form, settings=settings) for form in ("keras", *FORMS)}
    weights = {form: keras.saving.load_model(run.model_path).get_weights() for form, run in runs.items()}
    wanted = runs["keras"].to_json()
    for form in FORMS:
        for one, other in zip(weights[form], weights["keras"], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        document = runs[form].to_json()
        assert document["targets"]["mode"] == targets
        assert document["teacher"]["accuracy"] == wanted["teacher"]["accuracy"]


@pytest.mark.parametrize("form", FORMS)
def test_inner_layers_are_refused_before_training(folder, tmp_path, form):
    with pytest.raises(ModelError, match=r"losses\.hint compares inner layers, .* the teacher .* not accessible"):
        distilled(folder, tmp_path / "out", form, recipe={"losses": [{"kind": "hint"}]})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMS)
def test_as_a_student_it_is_refused(folder, tmp_path, form):
    with pytest.raises(ModelError, match="can be run, but not trained") as caught:
        distilled(folder, tmp_path / "out", "keras", student=folder / f"teacher.{form}")
    assert "it was made from" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_reader_that_dies_while_it_teaches_is_a_model_error(folder, tmp_path, monkeypatch):
    request = FileRunner.predict
    seen = []

    def dying(runner, batch):
        seen.append(len(batch[0]))
        # Batches of 16 are those of training.
        if seen.count(16) == 4:
            runner._process.kill()
        return request(runner, batch)

    monkeypatch.setattr(FileRunner, "predict", dying)
    with pytest.raises(ModelError, match=r"teacher\.tflite: the file crashed LiteRT .signal 9, SIGKILL."):
        distilled(folder, tmp_path / "out", "tflite", settings=["train.batch_size=16", "teacher.targets=live"])


def test_all_formats_evaluate_to_the_same(folder):
    found = kdcli.evaluate(
        *[folder / f"teacher.{form}" for form in ("keras", *FORMS)], data=folder / "data.npz", latency=False
    )
    models = found.to_json()["models"]
    assert [one["format"] for one in models] == ["keras", *FORMS]
    assert len({one["accuracy"] for one in models}) == 1
    assert np.ptp([one["loss"] for one in models]) < 1e-6
