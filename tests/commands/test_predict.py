"""kd predict: contents of the file, its rows, and refusals before anything is written."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.data.dataset import fingerprint_dataset, open_dataset
from kdcli.errors import DataError, StorageError, UsageError
from kdcli.recipe.sections import DataSection
from kdcli.runs import writer

# The scale of an untrained model cannot be found: by chance another one could seem better.
UNIT = ["student.input.scale=unit"]


def model(*layers: keras.Layer, shape=(8, 8, 1)) -> keras.Model:
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    keras.utils.set_random_seed(0)
    model(keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")).save(folder / "m.keras")
    model(keras.layers.Flatten(), keras.layers.Dense(1, activation="sigmoid")).save(folder / "two.keras")
    model(keras.layers.Conv2D(2, 3, padding="same")).save(folder / "map.keras")
    model(keras.layers.Dense(2), shape=(4,)).save(folder / "values.keras")
    save_npz(folder / "data.npz")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return kdcli.distill(
        teacher=folder / "m.keras",
        student=folder / "m.keras",
        data=folder / "data.npz",
        out=folder / "run",
        epochs=1,
        limit=60,
        preflight=False,
        settings=["data.validation=0.2", "student.input.scale=signed"],
    )


def predict(folder: Path, out: Path, name: str = "m.keras", **options) -> dict[str, np.ndarray]:
    kdcli.predict(folder / name, out=out, **{"data": folder / "data.npz", **options})
    with np.load(out, allow_pickle=False) as file:
        return dict(file)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_predictions_are_those_of_the_model(folder, tmp_path):
    found = predict(folder, tmp_path / "a.npz", settings=UNIT)
    x, y = blobs(48, seed=1)
    probabilities = keras.saving.load_model(folder / "m.keras")(x / np.float32(255)).numpy()
    keys = {"logits", "probabilities", "predicted", "index", "labels", "fingerprint"}
    assert set(found) == keys
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-6)
    np.testing.assert_array_equal(found["predicted"], probabilities.argmax(-1))
    np.testing.assert_array_equal(found["labels"], y)
    np.testing.assert_array_equal(found["index"], np.arange(48))
    raised = np.exp(found["logits"] - found["logits"].max(-1, keepdims=True))
    np.testing.assert_allclose(raised / raised.sum(-1, keepdims=True), probabilities, atol=1e-6)
    assert (found["logits"].dtype, found["probabilities"].dtype, found["index"].dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )


def test_the_document_says_what_was_written(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = kdcli.predict(folder / "m.keras", data=folder / "data.npz", out="sub/a.npz", split="all")
    assert done.to_json() == {
        "schema": "kd.predict/1",
        "path": "sub/a.npz",
        "split": "all",
        "examples": 144,
        "task": "classification",
        "model": os.path.relpath(folder / "m.keras"),
    }
    assert os.listdir("sub") == ["a.npz"]


def test_train_is_the_whole_training_part(folder, tmp_path, run):
    for name in (folder / "m.keras", run.run):
        out = tmp_path / f"{Path(name).name}.npz"
        found = predict(folder, out, name=name, split="train")
        # Neither the validation fraction nor a run's limit takes anything away.
        np.testing.assert_array_equal(found["index"], np.arange(96))
        np.testing.assert_array_equal(found["labels"], blobs(96)[1])


def test_index_leads_back_to_the_rows(folder, tmp_path):
    found = predict(folder, tmp_path / "a.npz", split="train", limit=12)
    everything = predict(folder, tmp_path / "b.npz", split="train")
    assert len(found["index"]) == 12
    assert np.bincount(found["labels"]).tolist() == [4, 4, 4]
    np.testing.assert_allclose(found["logits"], everything["logits"][found["index"]], atol=1e-5)


def test_validation_is_what_the_run_selected_on(run, folder, tmp_path):
    found = predict(folder, tmp_path / "a.npz", name=run.run, data=None, split="validation")
    assert len(found["index"]) == run.validation["examples"] == 12
    right = np.mean(found["predicted"] == blobs(96)[1][found["index"]])
    assert right == pytest.approx(run.validation["accuracy"])


def test_a_run_brings_data_and_preprocessing(run, folder, tmp_path):
    found = predict(folder, tmp_path / "a.npz", name=run.run, data=None)
    with np.load(run.run / "predictions.npz") as recorded:
        np.testing.assert_allclose(found["logits"], recorded["logits"], atol=1e-5)
        np.testing.assert_array_equal(found["index"], recorded["index"])


def test_the_fingerprint_depends_on_the_data_only(folder, tmp_path):
    section = DataSection.model_validate({"source": str(folder / "data.npz")})
    expected = fingerprint_dataset(open_dataset(section, seed=0, split_validation=False))
    for number, options in enumerate(({"split": "train"}, {"split": "validation"}, {"limit": 5})):
        assert str(predict(folder, tmp_path / f"{number}.npz", **options)["fingerprint"]) == expected
    other = predict(folder, tmp_path / "other.npz", data=blobs(48, seed=9))
    assert str(other["fingerprint"]) != expected


def test_labels_are_not_needed(folder, tmp_path):
    x, _ = blobs(30)
    found = predict(folder, tmp_path / "a.npz", data={"x": x})
    assert set(found) == {"logits", "probabilities", "predicted", "index", "fingerprint"}
    kdcli.predict(folder / "m.keras", data={"x": x}, out=tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == (
        "index,predicted,probability_0,probability_1,probability_2"
    )


def test_one_sigmoid_is_two_classes(folder, tmp_path):
    x, y = blobs(30, classes=2)
    found = predict(folder, tmp_path / "a.npz", name="two.keras", data=(x, y), settings=UNIT)
    probability = keras.saving.load_model(folder / "two.keras")(x / np.float32(255)).numpy()
    np.testing.assert_allclose(
        found["probabilities"], np.concatenate([1 - probability, probability], -1), atol=1e-6
    )


def test_dense_tasks_keep_classes_only(folder, tmp_path):
    x = blobs(6)[0]
    data = (x, (x[..., 0] > 100).astype(np.int64))
    settings = ["data.task=segmentation"]
    found = predict(folder, tmp_path / "a.npz", name="map.keras", data=data, settings=settings)
    assert set(found) == {"classes", "index", "labels", "fingerprint"}
    assert found["classes"].shape == (6, 8, 8)
    with pytest.raises(UsageError, match="cannot hold segmentation maps"):
        kdcli.predict(folder / "map.keras", data=data, settings=settings, out=tmp_path / "a.csv")
    assert os.listdir(tmp_path) == ["a.npz"]


def test_regression_has_values(folder, tmp_path):
    random = np.random.default_rng(0)
    data = (random.random((6, 4), np.float32), random.random((6, 2), np.float32))
    found = predict(folder, tmp_path / "a.npz", name="values.keras", data=data)
    assert set(found) == {"values", "index", "labels", "fingerprint"}
    plain = keras.saving.load_model(folder / "values.keras")(data[0]).numpy()
    np.testing.assert_allclose(found["values"], plain, atol=1e-6)
    kdcli.predict(folder / "values.keras", data=data, out=tmp_path / "a.csv")
    rows = rows_of(tmp_path / "a.csv")
    assert list(rows[0]) == ["index", "label_0", "label_1", "predicted_0", "predicted_1"]
    assert float(rows[3]["predicted_1"]) == pytest.approx(plain[3, 1], abs=1e-6)


def test_multilabel_has_a_decision_for_each_name(folder, tmp_path):
    x, labels = blobs(9)[0], np.random.default_rng(0).integers(0, 2, (9, 3))
    settings = ["data.task=multilabel", "data.classes=[a, b, c]", "student.output_kind=logits"]
    model(keras.layers.Flatten(), keras.layers.Dense(3)).save(tmp_path / "m.keras")
    found = predict(tmp_path, tmp_path / "a.npz", data=(x, labels), settings=settings)
    np.testing.assert_array_equal(found["predicted"], found["logits"] > 0)
    np.testing.assert_allclose(found["probabilities"], 1 / (1 + np.exp(-found["logits"].astype(float))), atol=1e-6)
    kdcli.predict(tmp_path / "m.keras", data=(x, labels), settings=settings, out=tmp_path / "a.csv")
    header = (tmp_path / "a.csv").read_text().splitlines()[0]
    names = [f"{column}_{name}" for column in ("label", "predicted", "probability") for name in "abc"]
    assert header.split(",") == ["index", *names]


def test_a_table_names_the_classes(folder, tmp_path):
    settings = ["data.classes=['a,b', cat, dog]"]
    found = predict(folder, tmp_path / "a.npz", settings=settings)
    kdcli.predict(folder / "m.keras", data=folder / "data.npz", settings=settings, out=tmp_path / "a.csv")
    rows = rows_of(tmp_path / "a.csv")
    names = np.array(["a,b", "cat", "dog"])
    assert list(rows[0]) == ["index", "label", "predicted", *(f"probability_{name}" for name in names)]
    assert [row["predicted"] for row in rows] == names[found["predicted"]].tolist()
    assert [row["label"] for row in rows] == names[found["labels"]].tolist()
    probabilities = np.array([[row[f"probability_{name}"] for name in names] for row in rows], np.float32)
    np.testing.assert_array_equal(probabilities, found["probabilities"])


def test_batch_size_does_not_change_predictions(folder, tmp_path):
    one, other = (predict(folder, tmp_path / f"{size}.npz", batch_size=size) for size in (7, 256))
    np.testing.assert_allclose(one["logits"], other["logits"], atol=1e-5)


def test_a_wrong_output_path_is_refused_before_any_work(folder, tmp_path):
    (tmp_path / "there.npz").write_text("mine")
    nowhere = tmp_path / "no.keras"
    # The model is not even looked for.
    with pytest.raises(UsageError, match=r"--out must be a \.npz or \.csv file, got .*a\.txt"):
        kdcli.predict(nowhere, data="digits", out=tmp_path / "a.txt")
    with pytest.raises(UsageError, match=r"there\.npz already exists") as caught:
        kdcli.predict(nowhere, data="digits", out=tmp_path / "there.npz")
    assert "another --out" in caught.value.hint
    with pytest.raises(UsageError, match="--split must be one of"):
        kdcli.predict(nowhere, data="digits", out=tmp_path / "a.npz", split="tests")
    with pytest.raises(UsageError, match=r"no data: data\.source is not set"):
        kdcli.predict(folder / "m.keras", out=tmp_path / "a.npz")
    with pytest.raises(DataError, match="no test split; available: train"):
        kdcli.predict(folder / "m.keras", data=blobs(30), split="test", out=tmp_path / "a.npz")
    assert os.listdir(tmp_path) == ["there.npz"]
    assert (tmp_path / "there.npz").read_text() == "mine"


def test_a_litert_file_predicts_as_its_model(folder, tmp_path):
    pytest.importorskip("ai_edge_litert")
    import tensorflow as tf

    from kdcli.lazy import silence_descriptor

    with silence_descriptor(1), silence_descriptor(2):
        loaded = keras.saving.load_model(folder / "m.keras")
        (tmp_path / "m.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(loaded).convert())
    found = predict(folder, tmp_path / "a.npz", name=tmp_path / "m.tflite")
    expected = predict(folder, tmp_path / "b.npz")
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=1e-5)
    np.testing.assert_array_equal(found["index"], expected["index"])


def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(step, path):
        if step == "write":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "hook", full)
    with pytest.raises(StorageError, match="disk full"):
        kdcli.predict(folder / "m.keras", data=folder / "data.npz", out=tmp_path / "a.npz")
    assert os.listdir(tmp_path) == []


def test_the_command_prints_the_path_the_document_or_a_line(kd, folder):
    data = ("--data", folder / "data.npz")
    line = kd("predict", folder / "m.keras", *data, "--out", "a.npz")
    assert line.out.startswith("a.npz: predictions of ") and "48 examples of the test split" in line.out
    assert kd("predict", folder / "m.keras", *data, "--out", "b.csv", "--quiet").out == "b.csv\n"
    document = kd("predict", folder / "m.keras", *data, "--out", "c.npz", "--limit", "6", "--json").document
    assert (document["schema"], document["path"], document["examples"]) == ("kd.predict/1", "c.npz", 6)
    again = kd("predict", folder / "m.keras", *data, "--out", "a.npz")
    assert (again.code, again.out) == (2, "")
    assert kd("predict", folder / "m.keras", *data).code == 2
