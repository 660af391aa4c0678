"""Distillation in stages: the student of each stage is the teacher of the next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import bar_reader, save_npz

import kdcli
from kdcli.errors import Interrupted, KdError, LockedError
from kdcli.events import Note
from kdcli.runs import writer
from kdcli.runs.directory import acquire_run_lock

SOFT = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "temperature": 2.0}]
MLP = {"kind": "zoo", "name": "mlp"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staging")
    save_npz(folder / "data.npz")
    bar_reader().save(folder / "teacher.keras")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    keras.Sequential(layers).save(folder / "student.keras")
    return folder


def staged(folder, **sections):
    return {
        "data": {"source": str(folder / "data.npz")},
        "teacher": {"model": {"kind": "file", "path": str(folder / "teacher.keras")}},
        "student": {"model": {"kind": "file", "path": str(folder / "student.keras")}},
        "losses": SOFT,
        "train": {"epochs": 1, "batch_size": 16, "seed": 3, "optimizer": {"kind": "adam", "learning_rate": 0.01}},
        "stages": [
            {"student": {"model": {**MLP, "width": 8}}, "train": {"epochs": 12}, "losses": [SOFT[1]]},
            {},
        ],
        **sections,
    }


def summary(path):
    return json.loads((path / "summary.json").read_text())


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    recipe = staged(folder, gates={"accuracy": ">= 0.05"})
    return kdcli.distill(recipe=recipe, out=tmp_path_factory.mktemp("runs") / "chain")


def test_the_last_stage_is_the_run_and_contains_the_others(run, folder):
    first = summary(run.run / "stages/1")
    assert (first["epochs"], run.epochs) == (12, 1)
    assert first["teacher"]["path"].endswith("teacher.keras") and first["gates"] == []
    document = run.to_json()
    assert document["teacher"]["path"].endswith("stages/1/student.keras")
    assert document["teacher"]["accuracy"] == first["test"]["accuracy"]
    assert [gate["state"] for gate in document["gates"]] == ["passed"]
    (assistant,) = document["stages"]
    assert assistant["model"] == first["model"] and assistant["accuracy"] == first["test"]["accuracy"]
    assert run.parameters == 64 * 3 + 3 != first["parameters"]
    assert "| Earlier stages | `" in (run.run / "README.md").read_text()
    assert "Earlier stages" not in (run.run / "stages/1/README.md").read_text()


def test_a_stage_gives_the_result_of_the_same_distillation_alone(run, folder, tmp_path):
    recipe = {**staged(folder), "teacher": {}}
    del recipe["stages"]
    alone = kdcli.distill(recipe=recipe, teacher=run.run / "stages/1", out=tmp_path / "alone")
    ours, theirs = (keras.saving.load_model(one.model_path).get_weights() for one in (run, alone))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_chain_is_shown_again_and_different_settings_are_refused(run, folder, tmp_path):
    for recipe in (None, staged(folder, gates={"accuracy": ">= 0.05"})):
        again = kdcli.distill(recipe=recipe, out=run.run, resume=True)
        assert again.document["test"] == summary(run.run)["test"]
    other = staged(folder)
    other["stages"][0]["train"]["epochs"] = 13
    with pytest.raises(KdError, match=r"stages\.0\.train\.epochs is 12 \(requested: 13\)") as caught:
        kdcli.distill(recipe=other, out=run.run, resume=True)
    assert caught.value.exit_code == 2
    with pytest.raises(KdError, match="stages"):
        kdcli.distill(recipe={**staged(folder), "stages": []}, out=run.run, resume=True)
    with pytest.raises(KdError, match="is not empty"):
        kdcli.distill(recipe=staged(folder), out=run.run)


class StopAfter:
    """Stops a number of calls after the note that a stage begins."""

    def __init__(self, stage, questions):
        self.phase, self.left, self.begun = stage, questions, False

    def heard(self, event):
        self.begun |= isinstance(event, Note) and event.text.startswith(f"stage {self.phase} of")

    def __call__(self):
        self.left -= self.begun
        return 130 if self.left < 0 else None


@pytest.mark.parametrize(("stage", "questions"), [(1, 8), (2, 2)])
def test_an_interrupted_chain_resumes_where_it_stopped(run, folder, tmp_path, stage, questions):
    out, stop = tmp_path / "cut", StopAfter(stage, questions)
    with pytest.raises(Interrupted) as caught:
        kdcli.distill(recipe=staged(folder), out=out, stop=stop, on_event=stop.heard)
    assert (caught.value.exit_code, caught.value.run) == (130, out)
    assert (out / "stages/1/summary.json").exists() == (stage == 2)
    # The recipe is stored in the directory.
    resumed = kdcli.distill(out=out, resume=True)
    ours, theirs = (keras.saving.load_model(one.model_path).get_weights() for one in (run, resumed))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_recipe_of_a_chain_is_stored_under_the_lock(folder, tmp_path, monkeypatch):
    out, original, locked = tmp_path / "locked", writer.write_text, []

    def write_text(path, text):
        if path == out / "stages/recipe.yaml":
            with pytest.raises(LockedError):
                acquire_run_lock(out)
            locked.append(path)
        original(path, text)

    monkeypatch.setattr(writer, "write_text", write_text)
    kdcli.distill(recipe=staged(folder), out=out)
    assert len(locked) == 1


def test_options_of_the_first_start_apply_to_a_resumed_chain(folder, tmp_path):
    recipe = staged(folder)
    recipe["stages"][1] = {"student": {"model": {**MLP, "width": 4}}, "train": {"epochs": 2, "batch_size": 32}}
    given = {"epochs": 6, "student": folder / "student.keras", "settings": ["train.batch_size=8"]}
    out, stop = tmp_path / "cut", StopAfter(2, 0)
    with pytest.raises(Interrupted):
        kdcli.distill(recipe=recipe, out=out, stop=stop, on_event=stop.heard, **given)
    assert (out / "stages/1/summary.json").exists() and not (out / "environment.json").exists()
    with pytest.raises(KdError, match=r"train\.epochs is 6 \(requested: 3\)"):
        kdcli.distill(out=out, resume=True, epochs=3)
    # With the recipe alone it would be another chain.
    with pytest.raises(KdError, match=r"stages\.0\.train\.epochs is not set \(requested: 12\)"):
        kdcli.distill(recipe=recipe, out=out, resume=True)
    resumed = kdcli.distill(out=out, resume=True)
    assert (resumed.epochs, resumed.parameters, summary(out / "stages/1")["epochs"]) == (6, 195, 6)
    assert resumed.steps == summary(out / "stages/1")["steps"] == 60
    again = kdcli.distill(recipe=recipe, out=out, resume=True, **given)
    assert again.document["test"] == resumed.to_json()["test"]


def test_an_option_that_differs_from_a_stage_is_a_different_setting(folder, tmp_path):
    recipe = staged(folder)
    recipe["stages"][1] = {"train": {"epochs": 2}}
    out, stop = tmp_path / "cut", StopAfter(1, 8)
    with pytest.raises(Interrupted):
        kdcli.distill(recipe=recipe, out=out, stop=stop, on_event=stop.heard)
    with pytest.raises(KdError, match=r"stages\.1\.train\.epochs is 2 \(requested: not set\)") as caught:
        kdcli.distill(out=out, resume=True, epochs=1)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("begun", ["here/stages/1", "here"])
def test_a_moved_chain_is_resumed(run, folder, tmp_path, monkeypatch, begun):
    monkeypatch.chdir(tmp_path)
    started = Path(begun) / "environment.json"
    with pytest.raises(Interrupted):
        kdcli.distill(recipe=staged(folder), out="here", stop=lambda: 130 if started.exists() else None)
    assert (Path(begun) / "checkpoint").exists() and not (Path(begun) / "summary.json").exists()
    shutil.move("here", tmp_path / "there")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed = kdcli.distill(out="../there", resume=True)
    ours, theirs = (keras.saving.load_model(one.model_path).get_weights() for one in (run, resumed))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    shutil.move(tmp_path / "there", "again")
    assert kdcli.distill(out="again", resume=True).document["test"] == resumed.to_json()["test"]


OWN = """
from typing import ClassVar, Literal
import kdcli

class Mine(kdcli.Loss):
    needs_labels: ClassVar[bool] = False
    kind: Literal["mine"] = "mine"
    fails: bool = False

    def __call__(self, *, student, teacher, **_):
        if self.fails:
            return student.nothing
        return (student[:, 0] - teacher[:, 0]) ** 2
"""


def test_custom_code_that_changed_between_stages_is_refused(folder, tmp_path):
    mine, out, stop = tmp_path / "mine.py", tmp_path / "cut", StopAfter(2, 0)
    mine.write_text(OWN)
    recipe = staged(folder, losses=[*SOFT, {"kind": "mine"}])
    with pytest.raises(Interrupted):
        kdcli.distill(recipe=recipe, code=[mine], out=out, stop=stop, on_event=stop.heard)
    with pytest.raises(KdError, match=r"the recipe requires mine\.py"):
        kdcli.distill(out=out, resume=True)
    mine.write_text(OWN.replace("** 2", "** 4"))
    for given in ({}, {"recipe": recipe}):
        with pytest.raises(KdError, match=r"the code mine\.py has changed since") as caught:
            kdcli.distill(out=out, resume=True, code=[mine], **given)
        assert caught.value.exit_code == 2
    mine.write_text(OWN)
    run = kdcli.distill(out=out, resume=True, code=[mine])
    mine.write_text(OWN.replace("** 2", "** 4"))
    with pytest.raises(KdError, match="has changed since"):
        kdcli.distill(out=out, resume=True, code=[mine])
    # What is finished is shown without its files.
    assert kdcli.distill(out=out, resume=True).document["test"] == run.to_json()["test"]


def test_a_custom_loss_that_fails_in_a_stage_is_named_with_its_line(folder, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(OWN)
    recipe = staged(folder)
    recipe["stages"][1] = {"losses": [{"kind": "mine", "fails": True}]}
    for given in ({"out": tmp_path / "run"}, {"out": tmp_path / "no", "dry_run": True}):
        if "dry_run" in given:
            recipe["stages"].reverse()
        with pytest.raises(KdError, match=rf"--code {mine}:12: AttributeError: .*nothing") as caught:
            kdcli.distill(recipe=recipe, code=[mine], **given)
        assert caught.value.exit_code == 2


def test_overwrite_restarts_the_chain_and_never_deletes_foreign_files(run, folder, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(run.run, out)
    (out / "stages/notes.txt").write_text("mine")
    with pytest.raises(KdError, match=r"would delete .*stages/notes\.txt, which kd did not write"):
        kdcli.distill(recipe=staged(folder), out=out, overwrite=True)
    (out / "stages/notes.txt").unlink()
    held = acquire_run_lock(out / "stages/1")
    with pytest.raises(LockedError):
        kdcli.distill(recipe=staged(folder), out=out, overwrite=True)
    held.release()
    recipe = staged(folder)
    recipe["stages"][0]["train"]["epochs"] = 8
    after = kdcli.distill(recipe=recipe, out=out, overwrite=True)
    assert summary(out / "stages/1")["epochs"] == 8
    assert after.run == out


def test_options_apply_to_every_stage_and_the_student_to_the_last(folder, tmp_path):
    recipe = staged(folder)
    recipe["stages"].insert(1, {"student": {"model": {**MLP, "width": 4}}})
    seen = []
    given = {"student": folder / "student.keras", "epochs": 1, "settings": ["train.batch_size=32"]}
    plan = kdcli.distill(recipe=recipe, out=tmp_path / "no", dry_run=True, on_event=seen.append, **given)
    assert not (tmp_path / "no").exists()
    assert [stage["epochs"] for stage in plan.stages] == [1, 1, 1]
    assert [stage["student"]["kind"] for stage in plan.stages] == ["zoo", "zoo", "file"]
    assert [stage["losses"] for stage in plan.stages] == [["soft_targets"], *[["labels", "soft_targets"]] * 2]
    assert plan.stages[2]["teacher"].endswith("stages/2")
    settings = {row["path"]: (row["value"], row["origin"]) for row in plan.settings}
    assert settings["train.batch_size"] == (32, "--set train.batch_size")
    assert plan.to_json()["stages"][0]["finished"] is False


def test_an_incomplete_later_stage_is_refused_before_the_first_is_trained(folder, tmp_path):
    recipe = staged(folder)
    recipe["stages"].insert(1, {"student": {"model": {"kind": "file", "path": str(folder / "gone.keras")}}})
    cases = {
        "gone.keras": (recipe, {}, 4),
        "stage 2 has no losses": ({**staged(folder), "losses": None}, {}, 2),
        "cannot be the student of several": (
            {**staged(folder), "stages": [{}, {}]},
            {"student": keras.saving.load_model(folder / "student.keras")},
            2,
        ),
        "workers is not supported for a recipe with stages": (staged(folder), {"devices": "workers"}, 2),
        "--resume needs the run": (staged(folder), {"resume": True}, 2),
    }
    for message, (request, options, code) in cases.items():
        request = {name: value for name, value in request.items() if value is not None}
        out = {} if "resume" in options else {"out": tmp_path / "no"}
        with pytest.raises(KdError, match=message) as caught:
            kdcli.distill(recipe=request, **out, **options)
        assert caught.value.exit_code == code, message
        assert not (tmp_path / "no").exists()


def test_a_comparison_runs_the_whole_chain_for_every_seed(folder, tmp_path):
    recipe = staged(folder)
    given = {"recipes": [recipe], "repeats": 2, "latency": False, "out": tmp_path / "compared"}
    document = kdcli.compare(**given).to_json()
    scratch, distilled = document["students"]
    assert (scratch["status"], distilled["status"]) == ("finished", "finished")
    assert [run["seed"] for run in distilled["accuracy"]["runs"]] == [3, 4]
    folders = sorted((tmp_path / "compared").rglob("stages/1/summary.json"))
    assert [json.loads(path.read_text())["seed"] for path in folders] == [3, 4]
    # The baseline is the last student, trained like the last stage.
    baseline = summary(tmp_path / "compared" / "student/scratch/seed-3")
    assert (baseline["parameters"], baseline["epochs"]) == (195, 1)
    again = kdcli.compare(**given, resume=True).to_json()
    assert again["students"][1]["accuracy"] == distilled["accuracy"]


def test_the_command_plans_the_stages(kd, folder, tmp_path):
    path = tmp_path / "assistant.yaml"
    path.write_text(json.dumps(staged(folder)))
    ran = kd("distill", "--recipe", path, "--dry-run", "--out", tmp_path / "no")
    assert ran.code == 0, ran.err
    assert "stage 1   " in ran.out and "stage 2   " in ran.out and "stages/1, losses labels" in ran.out
    assert "nothing was written" in ran.out
    stopped = kd("distill", "--recipe", path, "--out", tmp_path / "cut", "--max-time", "0.01s")
    assert stopped.code == 143
