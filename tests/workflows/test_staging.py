"""Distillation in stages: the teacher teaches an assistant, the assistant the student."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from conftest import bar_reader, save_npz

import kdcli
from kdcli.errors import Interrupted, KdError, LockedError
from kdcli.events import Note
from kdcli.runs.directory import locked

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


def test_the_last_stage_is_the_run_and_the_others_lie_below_it(run, folder):
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
    assert "| Assistants | `" in (run.run / "README.md").read_text()
    assert "Assistants" not in (run.run / "stages/1/README.md").read_text()


def test_each_stage_gives_what_it_gives_alone(run, folder, tmp_path):
    recipe = {**staged(folder), "teacher": {}}
    del recipe["stages"]
    alone = kdcli.distill(recipe=recipe, teacher=run.run / "stages/1", out=tmp_path / "alone")
    ours, theirs = (keras.saving.load_model(one.model_path).get_weights() for one in (run, alone))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_chain_is_shown_again_and_other_settings_are_refused(run, folder, tmp_path):
    for recipe in (None, staged(folder, gates={"accuracy": ">= 0.05"})):
        again = kdcli.distill(recipe=recipe, out=run.run, resume=True)
        assert again.document["test"] == summary(run.run)["test"]
    other = staged(folder)
    other["stages"][0]["train"]["epochs"] = 13
    with pytest.raises(KdError, match=r"stages\.0\.train\.epochs is 12, asked for 13") as caught:
        kdcli.distill(recipe=other, out=run.run, resume=True)
    assert caught.value.exit_code == 2
    with pytest.raises(KdError, match="stages"):
        kdcli.distill(recipe={**staged(folder), "stages": []}, out=run.run, resume=True)
    with pytest.raises(KdError, match="is not empty"):
        kdcli.distill(recipe=staged(folder), out=run.run)


class StopAfter:
    """Stops once a stage has said that it begins, some questions later."""

    def __init__(self, stage, questions):
        self.stage, self.left, self.begun = stage, questions, False

    def heard(self, event):
        self.begun |= isinstance(event, Note) and event.text.startswith(f"stage {self.stage} of")

    def __call__(self):
        self.left -= self.begun
        return 130 if self.left < 0 else None


@pytest.mark.parametrize(("stage", "questions"), [(1, 8), (2, 2)])
def test_an_interrupted_chain_goes_on_where_it_stopped(run, folder, tmp_path, stage, questions):
    out, stop = tmp_path / "cut", StopAfter(stage, questions)
    with pytest.raises(Interrupted) as caught:
        kdcli.distill(recipe=staged(folder), out=out, stop=stop, on_event=stop.heard)
    assert (caught.value.exit_code, caught.value.run) == (130, out)
    assert (out / "stages/1/summary.json").exists() == (stage == 2)
    # Without the recipe: it lies there.
    resumed = kdcli.distill(out=out, resume=True)
    ours, theirs = (keras.saving.load_model(one.model_path).get_weights() for one in (run, resumed))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_overwrite_starts_the_whole_chain_anew_and_spares_what_is_foreign(folder, tmp_path):
    out = tmp_path / "again"
    before = kdcli.distill(recipe=staged(folder), out=out)
    (out / "stages/notes.txt").write_text("mine")
    with pytest.raises(KdError, match=r"did not write: .*stages/notes\.txt"):
        kdcli.distill(recipe=staged(folder), out=out, overwrite=True)
    (out / "stages/notes.txt").unlink()
    held = locked(out / "stages/1")
    with pytest.raises(LockedError):
        kdcli.distill(recipe=staged(folder), out=out, overwrite=True)
    held.release()
    recipe = staged(folder)
    recipe["stages"][0]["train"]["epochs"] = 8
    after = kdcli.distill(recipe=recipe, out=out, overwrite=True)
    assert summary(out / "stages/1")["epochs"] == 8
    assert after.run == before.run


def test_options_hold_in_every_stage_and_the_student_in_the_last(folder, tmp_path):
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


def test_what_a_later_stage_lacks_is_refused_before_the_first_one(folder, tmp_path):
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
        "workers share one training": (staged(folder), {"devices": "workers"}, 2),
        "--resume needs the run": (staged(folder), {"resume": True}, 2),
    }
    for message, (asked, options, code) in cases.items():
        asked = {name: value for name, value in asked.items() if value is not None}
        out = {} if "resume" in options else {"out": tmp_path / "no"}
        with pytest.raises(KdError, match=message) as caught:
            kdcli.distill(recipe=asked, **out, **options)
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
    # Its twin is the last student, trained as the last stage is.
    twin = summary(tmp_path / "compared" / "student/scratch/seed-3")
    assert (twin["parameters"], twin["epochs"]) == (195, 1)
    again = kdcli.compare(**given, resume=True).to_json()
    assert again["students"][1]["accuracy"] == distilled["accuracy"]


def test_the_command_plans_and_names_the_stages(kd, folder, tmp_path):
    path = tmp_path / "assistant.yaml"
    path.write_text(json.dumps(staged(folder)))
    ran = kd("distill", "--recipe", path, "--dry-run", "--out", tmp_path / "no")
    assert ran.code == 0, ran.err
    assert "stage 1   " in ran.out and "stage 2   " in ran.out and "stages/1, labels" in ran.out
    assert "nothing was written" in ran.out
    stopped = kd("distill", "--recipe", path, "--out", tmp_path / "cut", "--max-time", "0.01s")
    assert stopped.code == 143
