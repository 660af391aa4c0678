"""The run directory: locking, resuming, and files that are never deleted."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from kdcli.errors import StorageError, UsageError
from kdcli.runs import writer
from kdcli.runs.directory import (
    MARKER_FILE,
    Run,
    check_run_folder,
    choose_run_folder,
    find_run_model,
    find_run_recipe,
    read_json,
)


def open_run(path: Path, *, resume: bool = False, overwrite: bool = False, inputs=()) -> Run:
    return Run.open(path, resume=resume, overwrite=overwrite, inputs=inputs)


def make_run(path: Path, **files: str) -> Path:
    """A closed run that holds some files."""
    run = open_run(path)
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    run.close()
    return path


def test_a_new_run_creates_and_marks_its_directory(tmp_path):
    run = open_run(tmp_path / "runs" / "a")
    assert not run.crashed
    assert json.loads((run.path / MARKER_FILE).read_text())["process"] == os.getpid()
    run.close()
    assert os.listdir(run.path) == [MARKER_FILE]


def test_a_run_has_the_documented_file_names(tmp_path):
    run = open_run(tmp_path / "a")
    paths = (run.model, run.teacher, run.summary, run.recipe, run.metrics)
    names = [path.name for path in (*paths, run.predictions, run.environment, run.readme, run.checkpoint)]
    run.close()
    assert names == [
        *("student.keras", "teacher.keras", "summary.json", "recipe.yaml", "metrics.jsonl"),
        *("predictions.npz", "environment.json", "README.md", "checkpoint"),
    ]


def test_a_non_empty_directory_is_refused_with_three_alternatives(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=re.escape(f"--out {tmp_path} is not empty (notes.txt)")) as caught:
        open_run(tmp_path)
    for way in ("another --out", "--resume", "--overwrite"):
        assert way in caught.value.hint
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("way", ["resume", "overwrite"])
def test_a_directory_with_foreign_files_is_refused(tmp_path, way):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="contains files that kd did not write"):
        open_run(tmp_path, **{way: True})
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_overwrite_deletes_a_run(tmp_path):
    path = make_run(tmp_path / "a", summary_json="{}")
    (path / "checkpoint").mkdir()
    run = open_run(path, overwrite=True)
    run.close()
    assert os.listdir(path) == [MARKER_FILE]


def test_overwrite_never_deletes_a_foreign_file_in_a_run(tmp_path):
    path = make_run(tmp_path / "a", summary_json="{}")
    (path / "my thesis.txt").write_text("mine")
    try:
        open_run(path, overwrite=True).close()
    except UsageError as error:
        assert "my thesis.txt" in error.message
    assert (path / "my thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("inside", ["teacher.keras", "deeper/data.npz", "."])
def test_overwrite_never_deletes_an_input(tmp_path, inside):
    path = make_run(tmp_path / "a", summary_json="{}")
    given = path / inside
    given.parent.mkdir(exist_ok=True)
    if inside != ".":
        given.write_text("an input")
    with pytest.raises(UsageError, match="--overwrite would delete an input") as caught:
        open_run(path, overwrite=True, inputs=[given])
    assert caught.value.hint == "choose another --out"
    assert (path / "summary.json").exists()
    assert inside == "." or given.read_text() == "an input"
    open_run(path, resume=True).close()


def test_overwrite_finds_an_input_through_a_relative_path_and_a_link(tmp_path, monkeypatch):
    path = make_run(tmp_path / "a", teacher_keras="model")
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="would delete an input"):
        open_run(Path("a"), overwrite=True, inputs=[Path("link/teacher.keras")])
    assert (path / "teacher.keras").read_text() == "model"


def test_resume_keeps_existing_files(tmp_path):
    path = make_run(tmp_path / "a", metrics_jsonl="{}\n")
    run = open_run(path, resume=True)
    assert not run.crashed
    run.close()
    assert (path / "metrics.jsonl").read_text() == "{}\n"


def test_a_run_whose_process_crashed_is_recognized(tmp_path):
    path = make_run(tmp_path / "a", metrics_jsonl="{}\n")
    (path / MARKER_FILE).write_text(json.dumps({"process": 1, "started": 0.0}))
    run = open_run(path, resume=True)
    assert run.crashed
    run.close()
    again = open_run(path, resume=True)
    assert not again.crashed
    again.close()


def test_resume_of_an_empty_or_missing_directory_starts(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        run = open_run(tmp_path / name, resume=True)
        assert not run.crashed
        run.close()
        assert os.listdir(tmp_path / name) == [MARKER_FILE]


def test_a_locked_directory_is_refused_with_the_process_that_uses_it(tmp_path):
    first = open_run(tmp_path / "a")
    for way in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(StorageError, match=f"a is in use by process {os.getpid()}") as caught:
            open_run(tmp_path / "a", **way)
        assert caught.value.exit_code == 5
        assert "choose another --out" in caught.value.hint
    first.close()
    open_run(tmp_path / "a").close()


def test_checking_a_directory_detects_the_lock_and_writes_nothing(tmp_path):
    first = open_run(tmp_path / "a")
    with pytest.raises(StorageError, match="is in use by process"):
        check_run_folder(tmp_path / "a", resume=False, overwrite=False)
    first.close()
    check_run_folder(tmp_path / "b", resume=False, overwrite=False)
    assert os.listdir(tmp_path) == ["a"]


def test_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        open_run(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_out_below_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="Not a directory") as caught:
        open_run(tmp_path / "file" / "run")
    assert caught.value.location == str(tmp_path / "file" / "run")


@pytest.mark.parametrize("at", range(5))
def test_a_failure_to_open_a_run_leaves_no_files(tmp_path, monkeypatch, at):
    calls = []

    def hook(step, path):
        calls.append(step)
        if len(calls) - 1 == at:
            raise OSError(errno.EACCES, "")

    monkeypatch.setattr(writer, "hook", hook)
    with pytest.raises(StorageError, match="Permission denied"):
        open_run(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_model_and_recipe_are_found_in_runs_only(tmp_path):
    path = make_run(tmp_path / "a", student_keras="model", recipe_yaml="version: 1")
    assert find_run_model(path) == path / "student.keras"
    assert find_run_recipe(path) == path / "recipe.yaml"
    (path / MARKER_FILE).unlink()
    assert find_run_model(path) is None
    assert find_run_recipe(path) is None


def test_damaged_json_of_a_run_is_a_storage_error(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(StorageError, match="not valid JSON"):
        read_json(tmp_path / "summary.json")
    with pytest.raises(StorageError, match="No such file"):
        read_json(tmp_path / "environment.json")


def test_the_default_folder_is_named_by_time_command_and_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdcli.runs.directory.time.strftime", lambda form: "20260101-000000")
    first = choose_run_folder("distill", "recipes/feature.yaml")
    assert first == Path("runs/20260101-000000_distill_feature")
    first.mkdir(parents=True)
    assert choose_run_folder("distill", "feature") == Path("runs/20260101-000000_distill_feature_2")
