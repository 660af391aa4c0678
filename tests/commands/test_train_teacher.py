"""kd train-teacher as a function: the teacher section, trained on labels only."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.errors import UsageError
from kdcli.events import Note
from kdcli.recipe.reader import read_recipe

RECIPE = {
    "teacher": {"model": {"kind": "zoo", "name": "mlp", "width": 8, "depth": 1}},
    "student": {"model": {"kind": "zoo", "name": "mlp", "width": 2, "depth": 1}},
    "losses": [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9}],
    "train": {"epochs": 6, "batch_size": 16, "optimizer": {"kind": "adam", "learning_rate": 0.02}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train-teacher")
    save_npz(folder / "data.npz")
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(folder / "linear.keras")
    return folder


def train(folder: Path, out: Path, **given):
    return kdcli.train_teacher(**{"recipe": RECIPE, "data": folder / "data.npz", "out": out, **given})


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A finished training, with the notes it gave."""
    notes = []
    run = train(folder, tmp_path_factory.mktemp("runs") / "t", on_event=notes.append)
    return run, [event.text for event in notes if isinstance(event, Note)]


def differ(ours: Path, theirs: Path) -> float:
    pairs = zip(*(keras.saving.load_model(path).get_weights() for path in (ours, theirs)), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def test_teacher_learns_and_is_saved_under_its_own_name(trained):
    run, _ = trained
    assert run.model_path == run.run / "teacher.keras"
    files = {"teacher.keras", "summary.json", "recipe.yaml", "metrics.jsonl", "predictions.npz"}
    assert set(os.listdir(run.run)) == {".kd", *files, "environment.json", "README.md"}
    assert run.test.accuracy >= 0.95
    x, y = blobs(48, seed=1)
    logits = keras.saving.load_model(run.model_path).predict(x / np.float32(255), verbose=0)
    assert np.mean(logits.argmax(-1) == y) == pytest.approx(run.test.accuracy, abs=1e-6)


def test_summary_has_neither_teacher_nor_targets(trained):
    run, _ = trained
    document = json.loads((run.run / "summary.json").read_text())
    assert not {"teacher", "targets"} & set(document)
    assert document["schema"] == "kd.run/1"
    assert document["seconds"]["teacher"] == pytest.approx(0.0, abs=0.01)
    assert json.loads((run.run / "environment.json").read_text())["command"] == "train-teacher"


def test_distillation_terms_are_ignored_with_a_note(trained):
    run, notes = trained
    assert any("ignored losses: soft_targets" in text for text in notes)
    lines = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
    assert [name for name in lines[0] if name.startswith("losses.")] == ["losses.labels"]
    # The label term has weight 1 for a teacher, not the weight in the recipe.
    assert lines[0]["loss"] == pytest.approx(lines[0]["losses.labels"], rel=1e-6)


def test_same_seed_gives_the_same_teacher(trained, folder, tmp_path):
    run, _ = trained
    assert differ(train(folder, tmp_path / "a").model_path, run.model_path) == 0
    assert differ(train(folder, tmp_path / "b", seed=1).model_path, run.model_path) > 0


def test_file_gives_the_architecture_and_optionally_its_weights(folder, tmp_path):
    path = folder / "linear.keras"
    still = ["train.optimizer={kind: sgd, learning_rate: 1e-9}", "train.epochs=1"]
    fresh = train(folder, tmp_path / "a", teacher=path, settings=still)
    unchanged = train(folder, tmp_path / "b", teacher=path, settings=[*still, "teacher.start=file"])
    assert fresh.parameters == unchanged.parameters == 64 * 3 + 3
    assert differ(unchanged.model_path, path) < 1e-6
    assert differ(fresh.model_path, path) > 1e-2
    recorded = json.loads((unchanged.run / "environment.json").read_text())["inputs"]["teacher"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert recorded == {"path": str(path), "sha256": digest, "format": "keras", "findings": []}


def test_trained_teacher_teaches_as_a_run(trained, folder, tmp_path):
    run, _ = trained
    distilled = kdcli.distill(recipe=RECIPE, teacher=run.run, data=folder / "data.npz", out=tmp_path / "a")
    assert distilled.teacher["accuracy"] == run.test.accuracy
    assert Path(distilled.teacher["path"]).resolve() == run.model_path.resolve()


def test_interrupted_training_goes_on_to_the_same_teacher(trained, folder, tmp_path):
    run, _ = trained
    request = []

    def stop():
        request.append(1)
        return 130 if len(request) == 3 else None

    with pytest.raises(kdcli.KdError, match=r"stopped at step \d+ of 30; saved: .*checkpoint") as caught:
        train(folder, tmp_path / "a", stop=stop)
    assert caught.value.exit_code == 130
    again = train(folder, tmp_path / "a", resume=True)
    assert differ(again.model_path, run.model_path) == 0
    assert again.test == run.test


def test_unlabelled_data_is_refused_and_leaves_nothing(folder, tmp_path):
    named = {**RECIPE, "data": {"classes": ["a", "b", "c"]}}
    with pytest.raises(UsageError, match="needs labels, and the data has none"):
        train(folder, tmp_path / "a", recipe=named, data={"x_train": blobs(24)[0]})
    assert os.listdir(tmp_path) == []


def test_recipe_without_a_teacher_is_refused_by_name(folder, tmp_path):
    with pytest.raises(UsageError, match=r"no teacher: teacher\.model is not set by the recipe"):
        train(folder, tmp_path / "a", recipe={"train": {"epochs": 1}})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"ensemble": {"mix": "logits"}}, "ensemble"),
        ({"teacher": {**RECIPE["teacher"], "weight": 2.0}}, r"teacher\.weight"),
        ({"teacher": {**RECIPE["teacher"], "temperature": 3.0}}, r"teacher\.temperature"),
    ],
)
def test_settings_of_several_teachers_are_refused(folder, tmp_path, sections, named):
    with pytest.raises(UsageError, match=rf"^{named} applies to several teachers, but .* trains one$"):
        train(folder, tmp_path / "a", recipe={**RECIPE, **sections})
    assert os.listdir(tmp_path) == []


def test_stages_are_ignored_with_a_note(folder, tmp_path):
    notes = []
    recipe = {**RECIPE, "stages": [{"train": {"epochs": 9}}, {}]}
    train(folder, tmp_path / "a", recipe=recipe, dry_run=True, on_event=notes.append)
    assert [event.text for event in notes if isinstance(event, Note) and "stages" in event.text] == [
        "ignored stages: kd distill trains the stages of a recipe"
    ]


def test_dry_run_of_a_teacher_has_no_student_and_writes_nothing(folder, tmp_path):
    document = train(folder, tmp_path / "a", dry_run=True).to_json()
    assert document["student"] is None
    assert document["teacher"]["parameters"] == 64 * 8 + 8 + 8 * 3 + 3
    assert os.listdir(tmp_path) == []


def test_a_fresh_network_that_rescales_its_images_gets_them_raw(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x))).save(tmp_path / "own.keras")
    events = []
    run = kdcli.train_teacher(
        teacher=tmp_path / "own.keras",
        recipe={"train": {"epochs": 8, "batch_size": 8, "optimizer": {"kind": "adam", "learning_rate": 0.01}}},
        data=save_npz(tmp_path / "d.npz"),
        out=tmp_path / "run",
        on_event=events.append,
    )
    assert any("the network itself maps 0..255 to 0..1" in getattr(event, "text", "") for event in events)
    assert read_recipe(tmp_path / "run" / "recipe.yaml").recipe.teacher.input.scale == "raw"
    assert run.test.accuracy > 0.9
