"""Run directories with `--resume` and `--overwrite`: safe to repeat, and never a mixture of two runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import save_npz
from small_models import save_linear_model

from kdcli.cli.app import run as main
from kdcli.runs import writer

RECIPE = """\
data: {source: data.npz}
teacher: {model: {kind: file, path: teacher.keras}, targets: live}
student: {model: {kind: file, path: student.keras}}
losses:
  - {kind: labels, weight: 0.5}
  - {kind: soft_targets}
train: {epochs: 2, batch_size: 16}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_linear_model(folder / "teacher.keras", seed=1)
    save_linear_model(folder / "student.keras", seed=2)
    save_linear_model(folder / "other.keras", seed=3)
    save_npz(folder / "data.npz")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(files, tmp_path) -> Path:
    """The files in the current folder of the command."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return tmp_path


WORDS = ("distill", "--recipe", "./recipe.yaml", "--out", "run", "--resume")


def train(files: Path, folder: Path, *words: str) -> int:
    """Run the command in a folder with the files; return its exit code."""
    shutil.copytree(files, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return main([*WORDS, *words])


@pytest.fixture(scope="module")
def stopped_run(files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    assert train(files, folder, "--max-time", "0.01") == 143
    return folder / "run"


@pytest.fixture(scope="module")
def finished_run(files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert train(files, folder) == 0
    return folder / "run"


@pytest.fixture
def unfinished(here, stopped_run) -> Path:
    """A run in the current folder that was stopped after its first step."""
    shutil.copytree(stopped_run, here / "run")
    assert not (here / "run" / "summary.json").exists()
    assert list((here / "run" / "checkpoint").iterdir())
    return here / "run"


@pytest.fixture
def finished(here, finished_run) -> Path:
    """A finished run in the current folder."""
    shutil.copytree(finished_run, here / "run")
    return here / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".kd")
    }


def test_missing_directory_is_started_and_a_finished_run_is_shown_again(kd, here):
    first = kd(*WORDS, "--json")
    assert (first.code, first.document["epochs"]) == (0, 2)
    before = contents(here)
    again = kd(*WORDS, "--json")
    assert again.code == 0
    assert again.document == first.document
    assert "epoch" not in again.err
    assert contents(here) == before


def test_finished_run_is_shown_from_another_folder_with_its_paths(kd, here, finished, monkeypatch):
    (here / "deeper").mkdir()
    monkeypatch.chdir(here / "deeper")
    again = kd("distill", "--out", "../run", "--resume", "--json")
    assert (again.document["run"], again.document["model"]) == ("../run", "../run/student.keras")
    assert again.document["test"] == json.loads((finished / "summary.json").read_text())["test"]


def test_stopped_run_reports_its_checkpoint_and_the_command_to_resume(kd, here):
    ran = kd(*WORDS[:-1], "--max-time", "0.01")
    assert ran.code == 143
    assert ran.out == ""
    assert "error: stopped at step 1 of 10; saved: run/checkpoint/step-000000001.checkpoint" in ran.err
    assert "hint: kd distill --recipe ./recipe.yaml --out run --max-time 0.01 --resume\n" in ran.err


def test_resumed_run_has_the_result_of_an_uninterrupted_one(kd, here, unfinished, finished_run):
    ran = kd(*WORDS)
    assert ran.code == 0
    assert "continuing at step 1 of 10" in ran.err
    ours, theirs = (keras.saving.load_model(run / "student.keras") for run in (unfinished, finished_run))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    resumed, whole = (json.loads((run / "summary.json").read_text()) for run in (unfinished, finished_run))
    assert resumed["test"] == whole["test"]


def test_a_run_is_resumed_without_its_recipe(kd, here, unfinished):
    ran = kd("distill", "--out", "run", "--resume", "--json")
    assert ran.code == 0
    assert "continuing at step 1 of 10" in ran.err
    assert (ran.document["steps"], ran.document["run"]) == (10, "run")


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (("--epochs", "60"), "train.epochs is 2 (requested: 60)"),
        (("--seed", "5"), "train.seed is 0 (requested: 5)"),
        (("--set", "losses.soft_targets.temperature=9"), "(requested: 9.0)"),
        (("--set", "train.optimizer=sgd"), "train.optimizer"),
        (("--set", "data.augment=[{kind: shift, pixels: 1}]"), "data.augment"),
        (("--limit", "20"), "data.limit is 1.0 (requested: 20)"),
    ],
)
def test_other_settings_are_refused_with_the_difference(kd, here, unfinished, words, difference):
    before = contents(here)
    ran = kd(*WORDS, *words)
    assert ran.code == 2
    assert "error: run holds a run with different settings: " in ran.err
    assert difference in ran.err
    assert "another --out" in ran.err
    assert contents(here) == before


def test_other_epochs_for_a_finished_run_are_refused_with_the_option_to_train_further(kd, here, finished):
    before = contents(here)
    ran = kd(*WORDS, "--epochs", "60")
    assert ran.code == 2
    assert "train.epochs is 2 (requested: 60)" in ran.err
    assert "--student run/student.keras --set student.start=file" in ran.err
    assert contents(here) == before


def test_moved_inputs_of_the_same_content_are_accepted(kd, here, unfinished):
    (here / "moved").mkdir()
    for name in ("teacher.keras", "student.keras", "data.npz"):
        (here / name).rename(here / "moved" / name)
    words = ("--teacher", "moved/teacher.keras", "--student", "moved/student.keras", "--data", "moved/data.npz")
    ran = kd(*WORDS, *words)
    assert ran.code == 0, ran.err
    assert "continuing at step 1 of 10" in ran.err


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_changed_content_of_a_model_is_refused(kd, here, unfinished, role):
    shutil.copy(here / "other.keras", here / f"{role}.keras")
    before = contents(here)
    ran = kd(*WORDS)
    assert ran.code == 2
    assert f"error: run: the {role} has changed since the run was started: " in ran.err
    assert f"{role}.keras (sha256 " in ran.err
    assert contents(here) == before


def test_changed_content_of_the_data_is_refused(kd, here, unfinished):
    save_npz(here / "data.npz", examples=99)
    before = contents(here)
    ran = kd(*WORDS)
    assert ran.code == 2
    assert "error: run: the data has changed since the run was started: data.npz (sha256 " in ran.err
    assert contents(here) == before


def test_run_of_another_command_is_refused(kd, here, unfinished):
    ran = kd("train-teacher", *WORDS[1:])
    assert ran.code == 2
    assert "run holds a run of `kd distill`, not of `kd train-teacher`" in ran.err


def test_resume_needs_out_and_excludes_overwrite(kd, here):
    ran = kd("distill", "--recipe", "./recipe.yaml", "--resume")
    assert (ran.code, "--resume needs the run to continue" in ran.err) == (2, True)
    ran = kd(*WORDS, "--overwrite")
    assert (ran.code, "--resume and --overwrite exclude each other" in ran.err) == (2, True)
    assert not (here / "run").exists()


@pytest.mark.parametrize("left_out", ["  - {kind: soft_targets}\n", ", batch_size: 16"])
def test_recipe_without_an_earlier_setting_is_refused(kd, here, unfinished, left_out):
    (here / "recipe.yaml").write_text(RECIPE.replace(left_out, ""))
    before = contents(here)
    ran = kd(*WORDS)
    assert ran.code == 2
    assert "run holds a run with different settings: " in ran.err
    assert contents(here) == before


def test_overwrite_never_deletes_the_data_of_the_run(kd, here, finished):
    (here / "data.npz").rename(here / "run" / "data.npz")
    ran = kd(*WORDS[:-1], "--data", "run/data.npz", "--overwrite")
    assert ran.code == 2
    assert "--overwrite would delete an input: run/data.npz" in ran.err
    assert (here / "run" / "data.npz").exists()
    assert (here / "run" / "summary.json").exists()


def test_overwrite_with_a_bad_recipe_deletes_nothing(kd, here, finished):
    before = contents(here)
    assert kd(*WORDS[:-1], "--overwrite", "--epochs", "0").code == 2
    assert kd(*WORDS[:-1], "--overwrite", "--teacher", "missing.keras").code == 4
    assert contents(here) == before


def test_file_left_by_a_killed_write_is_removed_by_the_end_of_the_run(kd, here, unfinished):
    left = unfinished / f"{writer.TEMPORARY_PREFIX}99999-student.keras"
    left.write_bytes(b"half a model")
    assert kd(*WORDS).code == 0
    assert not left.exists()
    assert not [name for name in os.listdir(unfinished) if name.startswith(writer.TEMPORARY_PREFIX)]


def test_finished_run_without_its_model_is_a_storage_error(kd, finished):
    (finished / "student.keras").unlink()
    ran = kd(*WORDS)
    assert ran.code == 5
    assert "error: run: the run is finished, but its model is missing" in ran.err
