"""kd compare on tiny data: baselines, pairs, gates, resume, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from conftest import bar_reader, blobs, save_npz

import kdcli
from kdcli.errors import Interrupted, LockedError, ModelError, TrainingError, UsageError
from kdcli.events import Note
from kdcli.recipe.reader import read_recipe
from kdcli.runs.directory import Run
from kdcli.runs.results import Plan

TRAIN = {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "adam", "learning_rate": 0.02}}
SOFT = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9}]
CNN = {"kind": "zoo", "name": "cnn", "width": 2, "blocks": 1}


def recipe(**sections) -> dict:
    return {"losses": SOFT, "train": TRAIN, "student": {"model": CNN}, **sections}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    bar_reader().save(folder / "teacher.keras")
    save_npz(folder / "data.npz")
    return folder


@pytest.fixture(scope="module")
def notes() -> list[str]:
    """The notes of the comparison below."""
    return []


@pytest.fixture(scope="module")
def compared(folder, notes):
    """Two pairs of one arm, with everything measured."""
    return kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe()],
        data=folder / "data.npz",
        repeats=2,
        seed=4,
        out=folder / "compared",
        on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )


@pytest.fixture(scope="module")
def finished(folder) -> list[Path]:
    """Two finished runs of kd distill that differ in their seed."""
    runs = [folder / f"finished-{seed}" for seed in (1, 2)]
    for seed, run in zip((1, 2), runs, strict=True):
        kdcli.distill(
            teacher=folder / "teacher.keras", recipe=recipe(), data=folder / "data.npz", seed=seed, out=run
        )
    return runs


def test_a_comparison_has_a_teacher_a_baseline_and_the_distilled_student(compared):
    document = compared.to_json()
    assert document["schema"] == "kd.compare/1"
    assert [student["name"] for student in document["students"]] == ["scratch", "cnn/recipe"]
    assert document["students"][1]["baseline"] == "scratch"
    assert document["teacher"]["accuracy"] == 1.0
    assert document["students"][0]["gain"] == {"mean": None, "low": None, "high": None}
    assert {"mean", "low", "high"} <= set(document["students"][1]["gain"])
    assert [run["seed"] for run in document["students"][1]["accuracy"]["runs"]] == [4, 5]


def test_both_runs_of_a_pair_have_the_same_settings_and_test_split(compared):
    for seed in (4, 5):
        runs = [compared.out / "cnn" / arm / f"seed-{seed}" for arm in ("scratch", "recipe")]
        resolved = [read_recipe(run / "recipe.yaml").recipe for run in runs]
        assert [one.train.seed for one in resolved] == [seed, seed]
        assert [one.data_seed for one in resolved] == [4, 4]
        assert [one.student.start for one in resolved] == ["fresh", "fresh"]
        assert resolved[0].train == resolved[1].train
        assert [(loss.kind, loss.weight) for loss in resolved[0].losses] == [("labels", 1.0)]
        index = [np.load(run / "predictions.npz")["index"] for run in runs]
        assert np.array_equal(*index)


def test_gains_follow_from_the_stored_predictions(compared):
    scores, differences = {}, []
    for seed in (4, 5):
        for arm in ("scratch", "recipe"):
            with np.load(compared.out / "cnn" / arm / f"seed-{seed}" / "predictions.npz") as file:
                scores[arm, seed] = (file["logits"].argmax(-1) == file["labels"]).mean()
        differences.append(scores["recipe", seed] - scores["scratch", seed])
    student = compared.students[1]
    assert student.gain.mean == pytest.approx(np.mean(differences))
    assert student.accuracy == pytest.approx(np.mean([scores["recipe", seed] for seed in (4, 5)]))
    assert [pair.difference for pair in student.pairs] == pytest.approx(differences)


def test_arms_at_chance_are_reported(folder, tmp_path):
    notes = []
    result = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe()],
        # All test images are black, so the predictions are the same for all of them.
        data=save_npz(tmp_path / "dark.npz", x_test=np.zeros((48, 8, 8, 1), np.uint8)),
        repeats=1,
        latency=False,
        out=tmp_path / "blind",
        on_event=notes.append,
    )
    warnings = [note.text for note in notes if isinstance(note, Note) and note.warning]
    for student in result.students:
        assert student.at_chance
        for run in student.runs:
            assert any(
                text.startswith(f"{os.path.relpath(run.model)} is at chance: balanced acc") for text in warnings
            )
    assert result.students[1].verdict == "inconclusive" and result.students[1].gap_recovered is None
    report = (tmp_path / "blind" / "compare.md").read_text()
    assert "| inconclusive, both at chance |" in report
    assert "cnn/recipe: its run is at chance on the test split" in report
    assert "the teacher is at chance on the test split" in report
    assert sum(text.startswith("one pair has no variance estimate") for text in warnings) == 1


def test_the_picked_model_is_the_best_on_validation(compared):
    runs = [run for student in compared.students for run in student.runs]
    assert max(run.validation for run in runs) == next(r.validation for r in runs if r.model == compared.picked)
    assert compared.picked.exists()


def test_every_model_has_sizes_and_a_latency_with_its_ratio_to_the_teacher(compared):
    document = compared.to_json()
    for entry in (document["teacher"], *document["students"]):
        assert entry["parameters"] > 0 and entry["bytes"] > 0 and entry["flops"] > 0
        assert 0 < entry["latency"]["p50_ms"] <= entry["latency"]["p90_ms"]
    assert document["students"][0]["latency"]["ratio"]["low"] > 0
    floor = document["latency_noise_floor"]
    assert floor["low"] <= floor["value"] <= floor["high"]


def test_the_report_is_written_as_json_and_as_tables(compared):
    assert json.loads((compared.out / "compare.json").read_text()) == json.loads(json.dumps(compared.to_json()))
    text = (compared.out / "compare.md").read_text()
    assert "| scratch |" in text and "| cnn/recipe |" in text
    assert f"{compared.students[1].accuracy:.4f}" in text
    assert "latency noise floor" in text


def test_notes_name_the_arms_and_how_baselines_are_trained(compared, notes):
    assert "arm cnn/recipe: 2 runs" in notes
    assert "scratch: trained on labels only, with weight 1, as kd train-teacher does" in notes


def test_resume_with_more_repeats_trains_only_the_new_ones(compared, folder):
    events = []
    again = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe()],
        data=folder / "data.npz",
        repeats=3,
        seed=4,
        latency=False,
        out=compared.out,
        resume=True,
        on_event=events.append,
    )
    trained = [event.text for event in events if isinstance(event, Note) and event.text.startswith("run ")]
    assert [text.split(": ")[1] for text in trained] == ["cnn/recipe, seed 6", "scratch, seed 6"]
    assert [run.seed for run in again.students[1].runs] == [4, 5, 6]
    assert again.students[1].runs[:2] == compared.students[1].runs


def test_a_directory_that_is_not_empty_is_refused_with_the_alternatives(compared, folder):
    with pytest.raises(UsageError, match="is not empty") as caught:
        kdcli.compare(
            teacher=folder / "teacher.keras", data=folder / "data.npz", recipes=[recipe()], out=compared.out
        )
    assert "--resume" in caught.value.hint and "--overwrite" in caught.value.hint
    with pytest.raises(UsageError, match="no comparison"):
        kdcli.compare(
            teacher=folder / "teacher.keras", data=folder / "data.npz", recipes=[recipe()], out=folder, resume=True
        )


def test_a_recipe_on_labels_only_equals_its_baseline(folder):
    same = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe(losses=[{"kind": "labels"}])],
        data=folder / "data.npz",
        repeats=1,
        latency=False,
        out=folder / "same",
    )
    student = same.students[1]
    assert (student.gain.mean, student.verdict) == (0.0, "inconclusive")
    assert [(pair.gained, pair.lost, pair.p) for pair in student.pairs] == [(0, 0, 1.0)]


def test_a_finished_run_is_compared_with_a_baseline_of_its_seed(folder, finished):
    result = kdcli.compare(distilled=finished[1:], latency=False, out=folder / "with-finished")
    assert [student.name for student in result.students] == ["scratch", "cnn/finished-2"]
    assert result.students[1].runs[0].model == finished[1] / "student.keras"
    assert [one.seed for one in result.students[0].runs] == [2]
    gain = result.students[1].gain
    assert gain.over == "examples" and gain.low < gain.mean < gain.high
    assert "no variance estimate" in (folder / "with-finished" / "compare.md").read_text()


OVERFLOWING = [{"kind": "labels"}, {"kind": "soft_targets", "weight": 1e38}]


def test_a_failed_arm_is_marked_and_the_others_continue(folder):
    (folder / "bad.yaml").write_text(yaml.safe_dump(recipe(losses=OVERFLOWING)))
    (folder / "good.yaml").write_text(yaml.safe_dump(recipe()))
    result = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[folder / "bad.yaml", folder / "good.yaml"],
        data=folder / "data.npz",
        repeats=1,
        latency=False,
        gates=["accuracy>=0"],
        out=folder / "half",
    )
    by_name = {student.name: student for student in result.students}
    assert "is not finite" in by_name["cnn/bad"].status
    assert by_name["cnn/bad"].gain is None and by_name["cnn/bad"].runs == ()
    assert by_name["cnn/good"].status == "finished" and by_name["cnn/good"].gain is not None
    assert "failed" in (folder / "half" / "compare.md").read_text()
    (good,) = by_name["cnn/good"].runs
    # A failed arm has no file.
    states = {gate.model: gate.state for gate in result.gates}
    assert states == {"cnn/bad": "failed", os.path.relpath(good.model): "passed"}


def test_the_command_fails_if_every_distilled_arm_fails(folder):
    with pytest.raises(TrainingError, match="is not finite"):
        kdcli.compare(
            teacher=folder / "teacher.keras",
            recipes=[recipe(losses=OVERFLOWING)],
            data=folder / "data.npz",
            repeats=1,
            out=folder / "none",
        )


def test_impossible_settings_of_an_arm_end_the_command(folder):
    bad = recipe(losses=[{"kind": "hint", "teacher_layer": "nowhere", "student_layer": "block1"}])
    with pytest.raises(UsageError, match="no layer 'nowhere'"):
        kdcli.compare(
            teacher=folder / "teacher.keras",
            recipes=[bad, recipe()],
            data=folder / "data.npz",
            repeats=1,
            out=folder / "refused",
        )


def test_every_recipe_has_its_own_gates(folder):
    strict = recipe(gates={"accuracy": ">= 1.0", "gain": ">= 0.99"})
    result = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[strict, recipe(losses=[{"kind": "soft_targets"}])],
        data=folder / "data.npz",
        repeats=1,
        latency=False,
        out=folder / "gated",
    )
    (own,) = result.students[1].runs
    assert {(gate.model, gate.name) for gate in result.gates} == {
        (os.path.relpath(own.model), "accuracy"),
        (os.path.relpath(own.model), "gain"),
    }
    # Gates do not change the training, so both recipes share a baseline.
    assert [student.name for student in result.students] == ["scratch", "cnn/recipe", "cnn/recipe-2"]


def test_finished_runs_have_baselines_with_their_splits(folder, finished):
    result = kdcli.compare(distilled=finished, latency=False, out=folder / "splits")
    assert [one.seed for one in result.students[0].runs] == [1, 2]
    for seed, run in zip((1, 2), finished, strict=True):
        baseline = folder / "splits" / "cnn" / "scratch" / f"seed-{seed}"
        resolved = [read_recipe(one / "recipe.yaml").recipe for one in (run, baseline)]
        assert resolved[0].data_seed == resolved[1].data_seed == seed
    assert any("different validation splits" in note for note in result.notes)


def test_finished_runs_with_other_data_or_epochs_are_refused_before_training(finished, tmp_path):
    other = save_npz(tmp_path / "other.npz", examples=120)
    with pytest.raises(UsageError, match="the data has changed since the run was started"):
        kdcli.compare(distilled=finished[:1], data=other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--epochs has no effect on --distilled"):
        kdcli.compare(distilled=finished[:1], epochs=7, out=tmp_path / "out")


def test_arms_with_different_test_splits_are_refused(folder, tmp_path):
    other = save_npz(tmp_path / "other.npz", examples=120)
    recipes = [recipe(data={"source": str(path)}) for path in (folder / "data.npz", other)]
    with pytest.raises(UsageError, match=r"must have one test split \(got 2\)"):
        kdcli.compare(teacher=folder / "teacher.keras", recipes=recipes, out=tmp_path / "out")


def test_overwrite_deletes_partial_files_of_a_killed_process_but_no_foreign_ones(folder, tmp_path):
    options = {
        "teacher": folder / "teacher.keras",
        "recipes": [recipe()],
        "data": folder / "data.npz",
        "repeats": 1,
    }
    out = tmp_path / "over"
    kdcli.compare(**options, latency=False, out=out)
    run = out / "cnn" / "recipe" / "seed-0"
    (run / ".kd-writing-99-student.keras").write_bytes(b"half")
    foreign = out / "mine.txt"
    foreign.write_text("x")
    with pytest.raises(UsageError, match=r"would delete .*, which kd did not write"):
        kdcli.compare(**options, latency=False, out=out, overwrite=True)
    assert run.exists()
    foreign.unlink()
    held = Run.open(run, resume=True, overwrite=False)
    try:
        with pytest.raises(LockedError, match="in use by process"):
            kdcli.compare(**options, latency=False, out=out, overwrite=True)
    finally:
        held.close()
    # Stopped before it trains again: only what it deletes is tested.
    with pytest.raises(Interrupted):
        kdcli.compare(**options, latency=False, out=out, overwrite=True, stop=lambda: 143)
    assert not (run / ".kd-writing-99-student.keras").exists() and not (run / "student.keras").exists()


def test_a_stopped_comparison_names_its_directory_and_can_be_resumed(folder):
    options = {
        "teacher": folder / "teacher.keras",
        "recipes": [recipe()],
        "data": folder / "data.npz",
        "repeats": 1,
    }
    calls = iter([None] * 3)
    with pytest.raises(Interrupted) as caught:
        kdcli.compare(**options, latency=False, out=folder / "stopped", stop=lambda: next(calls, 143))
    assert caught.value.run == folder / "stopped"
    result = kdcli.compare(**options, latency=False, out=folder / "stopped", resume=True)
    assert [len(student.runs) for student in result.students] == [1, 1]


def test_a_dry_run_lists_the_arms_and_writes_nothing(folder):
    plan = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe()],
        data=folder / "data.npz",
        out=folder / "dry",
        dry_run=True,
    )
    assert isinstance(plan, Plan)
    assert [arm["name"] for arm in plan.to_json()["arms"]] == ["scratch", "cnn/recipe"]
    assert [arm["runs"] for arm in plan.arms] == [3, 3]
    assert all(arm["seconds"] > 0 for arm in plan.arms)
    assert plan.seconds["all arms"] >= sum(arm["seconds"] for arm in plan.arms) - 0.1
    assert not any("pair" in finding for finding in plan.findings)
    assert not (folder / "dry").exists()
    assert "scratch: trained on labels only, with weight 1, as kd train-teacher does" in plan.findings
    assert not [finding for finding in plan.findings if "times the rate" in finding]


def test_an_arm_with_another_effective_rate_than_its_baseline_is_reported(folder):
    sgd = {**TRAIN, "optimizer": "sgd"}
    losses = [{"kind": "labels", "weight": 0.05}, {"kind": "soft_targets", "weight": 0.05}]
    plan = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe(train=sgd, losses=losses)],
        data=folder / "data.npz",
        repeats=1,
        out=folder / "rates",
        dry_run=True,
    )
    (warned,) = (text for text in plan.findings if "times the rate" in text)
    assert warned.startswith("cnn/recipe: the losses on labels and outputs have a total weight of 0.1; the steps")


def test_regression_is_compared_by_its_error(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 4)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.3).astype(np.float32)[:, None] + 0.25
    np.savez(tmp_path / "d.npz", x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.layers[-1].set_weights([np.array([[1.0], [-2.0], [0.5], [0.0]]), np.array([0.55])])
    model.save(tmp_path / "t.keras")
    mlp = {"kind": "zoo", "name": "mlp", "width": 4, "depth": 1}
    result = kdcli.compare(
        teacher=tmp_path / "t.keras",
        recipes=[recipe(data={"task": "regression"}, student={"model": mlp})],
        data=tmp_path / "d.npz",
        repeats=1,
        latency=False,
        out=tmp_path / "out",
    )
    assert result.metric == "rmse"
    scratch, distilled = result.students
    assert distilled.gain.mean == pytest.approx(scratch.mean - distilled.mean)
    assert distilled.accuracy is None and distilled.mcnemar_p is None
    assert result.smallest_visible_gain is None


def test_test_examples_in_the_training_split_are_counted(tmp_path, folder):
    x_train, y_train = blobs(96)
    x_test, y_test = blobs(48, seed=1)
    x_test[:5], y_test[:5] = x_train[:5], y_train[:5]
    save_npz(tmp_path / "leak.npz", x_test=x_test, y_test=y_test)
    result = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe(data={"validation": 0.0})],
        data=tmp_path / "leak.npz",
        repeats=1,
        latency=False,
        out=tmp_path / "out",
    )
    assert result.duplicates == 5
    assert "5 test examples are also in the training split" in (tmp_path / "out" / "compare.md").read_text()


def test_a_comparison_needs_a_test_split_and_labels(folder, tmp_path):
    x, y = blobs(60)
    np.savez(tmp_path / "xy.npz", x=x, y=y)
    with pytest.raises(UsageError, match="needs a test split"):
        kdcli.compare(teacher=folder / "teacher.keras", recipes=[recipe()], data=tmp_path / "xy.npz")
    with pytest.raises(UsageError, match="needs labels"):
        kdcli.compare(
            teacher=folder / "teacher.keras",
            recipes=[recipe(data={"labels": "none"}, losses=[{"kind": "soft_targets"}])],
            data=folder / "data.npz",
        )


def test_gates_are_judged_for_every_distilled_arm(compared, folder):
    again = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe()],
        data=folder / "data.npz",
        repeats=2,
        seed=4,
        latency=False,
        gates=["accuracy>=0", "gain>=0.9", "size_mb<=1"],
        out=compared.out,
        resume=True,
    )
    states = {gate.name: gate.state for gate in again.gates}
    assert states == {"accuracy": "passed", "gain": "failed", "size_mb": "passed"}
    files = [os.path.relpath(run.model) for run in again.students[1].runs]
    assert {(gate.name, gate.model): gate.files for gate in again.gates} == {
        ("accuracy", "cnn/recipe"): tuple(files),
        ("gain", "cnn/recipe"): tuple(files),
        ("size_mb", files[0]): (files[0],),
    }
    assert again.to_json()["gates"][0]["files"] == files
    by_name = {gate.name: gate.value for gate in again.gates}
    assert by_name["gain"] == again.students[1].gain.mean


def test_a_latency_gate_without_latency_is_refused_before_training(folder):
    with pytest.raises(UsageError, match="latency is not measured"):
        kdcli.compare(
            teacher=folder / "teacher.keras",
            recipes=[recipe()],
            data=folder / "data.npz",
            latency=False,
            gates=["latency_ratio<=1"],
            out=folder / "untimed",
        )
    assert not (folder / "untimed").exists()


def test_times_are_measured_once_for_the_same_files(compared, folder):
    before = json.loads((compared.out / "compare.json").read_text())
    options = {"teacher": folder / "teacher.keras", "recipes": [recipe()], "data": folder / "data.npz", "seed": 4}
    for latency in (True, False):
        again = kdcli.compare(**options, repeats=3, latency=latency, out=compared.out, resume=True).to_json()
        assert [one["latency"] for one in again["students"]] == [one["latency"] for one in before["students"]]
        assert again["latency_noise_floor"] == before["latency_noise_floor"]


def test_a_recipe_for_workers_is_refused(folder):
    with pytest.raises(UsageError, match="workers share one training"):
        kdcli.compare(
            teacher=folder / "teacher.keras",
            recipes=[recipe(train={**TRAIN, "devices": "workers"})],
            data=folder / "data.npz",
            out=folder / "workers",
        )


def test_a_teacher_at_chance_is_refused_before_a_baseline_is_trained(folder, tmp_path):
    teacher = bar_reader()
    teacher.layers[-1].set_weights([np.zeros((64, 3)), np.array([1.0, 0.0, 0.0])])
    teacher.save(tmp_path / "t.keras")
    with pytest.raises(ModelError, match="chance"):
        kdcli.compare(
            teacher=tmp_path / "t.keras",
            recipes=[recipe()],
            data=folder / "data.npz",
            repeats=2,
            out=tmp_path / "out",
        )
    assert not list((tmp_path / "out").glob("cnn/*/seed-*"))
