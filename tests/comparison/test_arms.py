"""The arms of a comparison and their baselines; nothing is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import bar_reader, save_npz

from kdcli.comparison.arms import make_arms
from kdcli.errors import ModelError, UsageError

TRAIN = {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "adam", "learning_rate": 0.02}}
SOFT = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9}]
CNN = {"kind": "zoo", "name": "cnn", "width": 2, "blocks": 1}


def recipe(**sections) -> dict:
    return {"losses": SOFT, "train": TRAIN, "student": {"model": CNN}, **sections}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    bar_reader().save(folder / "teacher.keras")
    save_npz(folder / "data.npz")
    return folder


def arms_of(folder, *, data="data.npz", seed=None, **sources):
    sources = {"teacher": folder / "teacher.keras", "students": (), "recipes": [recipe()], **sources}
    options = {"data": folder / data, "seed": seed}
    return make_arms(**{"distilled": (), "repeats": None, **sources}, options=options)


def test_every_student_has_a_baseline_and_three_seeds(folder):
    scratch, distilled = arms_of(folder)
    assert [(arm.name, arm.baseline, arm.seeds) for arm in (scratch, distilled)] == [
        ("scratch", None, (0, 1, 2)),
        ("cnn/recipe", "scratch", (0, 1, 2)),
    ]


def test_a_baseline_is_the_same_training_on_labels_only(folder):
    losses = [{"kind": "labels", "weight": 0.05}, {"kind": "soft_targets", "weight": 0.05}]
    scratch, distilled = arms_of(folder, recipes=[recipe(losses=losses, gates={"accuracy": ">= 0.5"})], seed=4)
    ours, theirs = scratch.at(5).recipe, distilled.at(5).recipe
    assert [(loss.kind, loss.weight) for loss in ours.losses] == [("labels", 1.0)]
    assert (ours.train, ours.data, ours.student) == (theirs.train, theirs.data, theirs.student)
    assert (ours.train.seed, ours.data_seed, ours.student.start) == (5, 4, "fresh")
    assert ours.gates.gates() == () and theirs.gates.gates()


def test_a_model_object_cannot_start_from_its_weights_twice(folder):
    with pytest.raises(UsageError, match="trained in place"):
        arms_of(folder, students=[bar_reader()], recipes=[recipe(student={"start": "file"})])


def test_a_recipe_named_scratch_has_another_folder_than_the_baseline(folder):
    (folder / "scratch.yaml").write_text(yaml.safe_dump(recipe()))
    arms = arms_of(folder, recipes=[folder / "scratch.yaml"])
    assert len({arm.folder for arm in arms}) == 2


def test_recipes_that_differ_in_their_losses_share_a_baseline(folder):
    other = recipe(losses=[{"kind": "soft_targets", "temperature": 8.0}])
    arms = arms_of(folder, recipes=[recipe(), other])
    assert [arm.name for arm in arms] == ["scratch", "cnn/recipe", "cnn/recipe-2"]
    assert [arm.baseline for arm in arms] == [None, "scratch", "scratch"]


def test_another_training_or_student_has_its_own_baseline(folder):
    longer = recipe(train={**TRAIN, "epochs": 2})
    arms = arms_of(folder, recipes=[recipe(), longer])
    assert [arm.name for arm in arms] == ["scratch", "cnn/scratch-2", "cnn/recipe", "cnn/recipe-2"]
    assert [arm.baseline for arm in arms[2:]] == ["scratch", "cnn/scratch-2"]
    wider = recipe(student={"model": {**CNN, "width": 3}})
    arms = arms_of(folder, recipes=[recipe(), wider])
    assert [arm.folder for arm in arms] == ["cnn/scratch", "cnn-2/scratch", "cnn/recipe", "cnn-2/recipe"]


def test_students_start_from_the_file_if_the_recipe_says_so(folder):
    arms = arms_of(folder, recipes=[recipe(student={"model": CNN, "start": "file"})])
    assert {arm.at(0).recipe.student.start for arm in arms} == {"file"}


def test_training_options_are_refused_for_finished_runs(folder):
    with pytest.raises(UsageError, match="--repeats has no effect on --distilled"):
        arms_of(folder, recipes=[], distilled=[folder], repeats=2)


def test_a_folder_that_is_not_a_finished_run_is_refused(folder):
    with pytest.raises(ModelError, match="not a finished run"):
        arms_of(folder, recipes=[], distilled=[folder])


def test_different_teachers_are_refused(folder):
    first = recipe(teacher={"model": {"kind": "file", "path": "a.keras"}})
    second = recipe(teacher={"model": {"kind": "file", "path": "b.keras"}})
    with pytest.raises(UsageError, match="must have the same teacher"):
        arms_of(folder, recipes=[first, second], teacher=None)


def test_a_file_named_twice_is_one_student(folder, tmp_path):
    path = tmp_path / "s.keras"
    bar_reader().save(path)
    arms = arms_of(folder, students=[path, tmp_path / "." / "s.keras"], recipes=[recipe()])
    assert [arm.name for arm in arms] == ["scratch", "s/recipe"]
