"""kd evaluate as a function: files and runs, several at once, splits and limits."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.errors import DataError, ModelError, UsageError
from kdcli.evaluation.statistics import wilson_interval
from kdcli.events import Note


def bars(*, right: float = 1.0, scale: float = 1.0) -> keras.Model:
    """Sees the bar of each class; with less than all of the classes `right` it confuses the others."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    kernel = np.zeros((8, 8, 3), np.float32)
    for label in range(3):
        seen = label if label < round(3 * right) else (label + 1) % 3
        kernel[1 + 2 * label : 3 + 2 * label, :, seen] = 0.6 * scale
    model.layers[-1].set_weights([kernel.reshape(64, 3), np.zeros(3, np.float32)])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    bars().save(folder / "good.keras")
    bars(right=2 / 3).save(folder / "fair.keras")
    bars().save(folder / "good.h5")
    save_npz(folder / "data.npz")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """A run whose data has a limit and a validation split."""
    return kdcli.distill(
        teacher=folder / "good.keras",
        student=folder / "fair.keras",
        data=folder / "data.npz",
        out=folder / "run",
        epochs=1,
        limit=60,
        settings=["data.validation=0.2", "student.input.scale=signed"],
    )


def test_file_is_measured_on_the_test_split(folder):
    notes = []
    found = kdcli.evaluate(folder / "fair.keras", data=folder / "data.npz", on_event=notes.append)
    model = found.models[0]
    x, y = blobs(48, seed=1)
    logits = keras.saving.load_model(folder / "fair.keras")(x / np.float32(255)).numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    right = int((logits.argmax(-1) == y).sum())
    assert (found.split, model.quality.examples, model.format) == ("test", 48, "keras")
    assert model.quality.accuracy == right / 48 == pytest.approx(2 / 3)
    assert (model.quality.low, model.quality.high) == wilson_interval(right, 48)
    assert model.quality.loss == pytest.approx(-log_probabilities[np.arange(48), y].mean(), abs=1e-5)
    assert model.quality.agreement is None
    assert model.parameters == 64 * 3 + 3
    assert model.bytes == (folder / "fair.keras").stat().st_size
    assert model.sha256 == hashlib.sha256((folder / "fair.keras").read_bytes()).hexdigest()
    assert any("48 examples of the test split" in event.text for event in notes if isinstance(event, Note))


def test_several_models_keep_their_order(folder):
    models = [folder / name for name in ("fair.keras", "good.h5", "good.keras")]
    found = kdcli.evaluate(*models, data=folder / "data.npz")
    assert [model.path for model in found.models] == models
    assert [model.format for model in found.models] == ["keras", "h5", "keras"]
    assert [model.quality.accuracy for model in found.models] == pytest.approx([2 / 3, 1, 1])
    assert found.models[1].quality.loss == pytest.approx(found.models[2].quality.loss, abs=1e-6)


def test_teacher_gives_the_agreement(folder):
    models = [folder / "fair.keras", folder / "good.keras"]
    found = kdcli.evaluate(*models, data=folder / "data.npz", teacher=folder / "fair.keras")
    assert [model.quality.agreement for model in found.models] == pytest.approx([1, 2 / 3])


def test_run_brings_data_preprocessing_and_split(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = kdcli.evaluate(run.run)
    assert (found.split, found.models[0].quality.examples) == ("test", 48)
    assert found.models[0].quality.loss == pytest.approx(run.test.loss, abs=1e-6)
    assert found.models[0].quality.accuracy == run.test.accuracy
    assert found.models[0].path == run.run / "student.keras"
    # The file in its run is the run: what `--quiet` prints can be evaluated.
    inside = kdcli.evaluate(run.model_path)
    assert inside.models[0].quality.loss == found.models[0].quality.loss
    # A file outside its run lacks the scale [-1, 1].
    moved = shutil.copy(run.model_path, tmp_path / "moved.keras")
    default = kdcli.evaluate(moved, data=folder / "data.npz")
    assert default.models[0].quality.loss != pytest.approx(run.test.loss, abs=1e-3)
    signed = kdcli.evaluate(moved, data=folder / "data.npz", settings=["student.input.scale=signed"])
    assert signed.models[0].quality.loss == pytest.approx(run.test.loss, abs=1e-6)
    assert os.listdir(tmp_path) == ["moved.keras"]


def test_validation_split_of_a_run_is_the_one_it_selected_on(run):
    found = kdcli.evaluate(run.run, split="validation")
    assert found.split == "validation"
    assert found.models[0].quality.examples == run.validation["examples"] == 12
    assert found.models[0].quality.loss == pytest.approx(run.validation["loss"], abs=1e-6)
    assert found.models[0].quality.accuracy == run.validation["accuracy"]


@pytest.mark.parametrize(("split", "count"), [("auto", 48), ("test", 48), ("all", 144)])
def test_split_is_chosen(folder, split, count):
    found = kdcli.evaluate(folder / "good.keras", data=folder / "data.npz", split=split)
    assert found.models[0].quality.examples == count


def test_data_without_a_test_split_is_used_whole(folder):
    found = kdcli.evaluate(folder / "good.keras", data=blobs(30))
    assert (found.split, found.models[0].quality.examples) == ("all", 30)


@pytest.mark.parametrize(("limit", "count"), [(9, 9), (0.25, 12), (1000, 48)])
def test_limit_is_of_what_is_evaluated_and_stratified(folder, limit, count):
    found = kdcli.evaluate(folder / "fair.keras", data=folder / "data.npz", limit=limit)
    assert found.models[0].quality.examples == count
    assert found.models[0].quality.accuracy == pytest.approx(2 / 3)


def test_the_scale_of_a_model_for_raw_images_is_found(tmp_path, folder):
    # In [0, 1] the bias hides every bar.
    model = bars(scale=1 / 255)
    kernel, _ = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, np.array([3.0, 0.0, 0.0], np.float32)])
    model.save(tmp_path / "raw.keras")
    notes = []
    found = kdcli.evaluate(tmp_path / "raw.keras", data=folder / "data.npz", on_event=notes.append)
    assert found.models[0].quality.accuracy == 1.0
    texts = [event.text for event in notes if isinstance(event, Note)]
    assert any("input.scale is raw, by the loss on" in text for text in texts)
    forced = kdcli.evaluate(
        tmp_path / "raw.keras", data=folder / "data.npz", settings=["student.input.scale=unit"]
    )
    assert forced.models[0].quality.accuracy == pytest.approx(1 / 3)


def test_batch_size_does_not_change_metrics(folder):
    found = [
        kdcli.evaluate(folder / "fair.keras", data=folder / "data.npz", batch_size=size).models[0].quality
        for size in (7, 256)
    ]
    assert found[0].accuracy == found[1].accuracy
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-6)


def test_wrong_models_and_splits_are_refused(folder, tmp_path):
    good, data = folder / "good.keras", folder / "data.npz"
    with pytest.raises(UsageError, match="no model to evaluate"):
        kdcli.evaluate(data=data)
    with pytest.raises(UsageError, match="--split must be one of auto, train, validation, test, all"):
        kdcli.evaluate(good, data=data, split="tests")
    with pytest.raises(UsageError, match=r"no data: data\.source is not set by the recipe, a run or an option"):
        kdcli.evaluate(good)
    with pytest.raises(ModelError, match=r"missing\.keras: no such model file"):
        kdcli.evaluate(tmp_path / "missing.keras", data=data)
    with pytest.raises(DataError, match="no test split; available: train"):
        kdcli.evaluate(good, data=blobs(30), split="test")
    with pytest.raises(ModelError, match=f"{tmp_path} is a folder without a finished run"):
        kdcli.evaluate(tmp_path, data=data)


def test_runs_of_different_data_are_not_measured_on_the_data_of_the_first(tmp_path):
    runs = []
    for name in ("a", "b"):
        data = save_npz(tmp_path / f"{name}.npz", examples=60 if name == "a" else 90)
        bars().save(tmp_path / f"{name}.keras")
        made = kdcli.train_teacher(
            teacher=tmp_path / f"{name}.keras",
            recipe={"train": {"steps": 2, "batch_size": 8}},
            data=data,
            out=tmp_path / name,
        )
        runs.append(made.run)
    with pytest.raises(UsageError, match="were trained on different data") as caught:
        kdcli.evaluate(*runs)
    assert "--data D" in caught.value.hint
    assert len(kdcli.evaluate(*runs, data=tmp_path / "a.npz").models) == 2
