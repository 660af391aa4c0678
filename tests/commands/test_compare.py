"""kd compare on tiny data: twins, pairs, verdicts, what is kept and what is gone on with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from conftest import bar_reader, blobs, save_npz
from scipy import stats

import kdcli
from kdcli.comparison.arms import Arm, make_arms
from kdcli.comparison.gains import Judge
from kdcli.comparison.tables import _about_gap
from kdcli.errors import Interrupted, LockedError, ModelError, TrainingError, UsageError
from kdcli.events import Note
from kdcli.recipe.reader import read_recipe
from kdcli.runs.directory import Run
from kdcli.runs.results import FinishedRun, Plan

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
def compared(folder):
    """Two pairs of one arm, with everything measured."""
    return kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe()],
        data=folder / "data.npz",
        repeats=2,
        seed=4,
        out=folder / "compared",
    )


def test_a_comparison_has_a_teacher_a_scratch_student_and_the_distilled_one(compared):
    document = compared.to_json()
    assert document["schema"] == "kd.compare/1"
    assert [student["name"] for student in document["students"]] == ["scratch", "cnn/recipe"]
    assert document["students"][1]["baseline"] == "scratch"
    assert document["teacher"]["accuracy"] == 1.0
    assert document["students"][0]["gain"] == {"mean": None, "low": None, "high": None}
    assert {"mean", "low", "high"} <= set(document["students"][1]["gain"])
    assert [run["seed"] for run in document["students"][1]["accuracy"]["runs"]] == [4, 5]


def test_twins_start_from_the_same_weights_on_the_same_split(compared):
    for seed in (4, 5):
        runs = [compared.out / "cnn" / arm / f"seed-{seed}" for arm in ("scratch", "recipe")]
        resolved = [read_recipe(run / "recipe.yaml").recipe for run in runs]
        assert [one.train.seed for one in resolved] == [seed, seed]
        assert [one.data_seed for one in resolved] == [4, 4]
        assert [one.student.start for one in resolved] == ["fresh", "fresh"]
        assert resolved[0].train == resolved[1].train
        assert [loss.kind for loss in resolved[0].losses] == ["labels"]
        index = [np.load(run / "predictions.npz")["index"] for run in runs]
        assert np.array_equal(*index)


def test_the_figures_follow_from_the_kept_predictions(compared):
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
    # Gap recovered only where the gap is beyond the noise of seeds and of test examples.
    wins = []
    for seed in (4, 5):
        with np.load(compared.out / "cnn" / "scratch" / f"seed-{seed}" / "predictions.npz") as file:
            wins.append(1.0 - (file["logits"].argmax(-1) == file["labels"]))
    gaps, each = [wins[0].mean(), wins[1].mean()], np.mean(wins, axis=0)
    half = stats.t.ppf(0.975, 1) * np.std(gaps, ddof=1) / np.sqrt(2)
    half = max(half, stats.norm.ppf(0.975) * each.std(ddof=1) / np.sqrt(len(each)))
    gap = compared.students[0].teacher_gap
    assert (gap.mean, gap.low) == (pytest.approx(np.mean(gaps)), pytest.approx(np.mean(gaps) - half))
    recovered = pytest.approx(np.mean(differences) / np.mean(gaps)) if np.mean(gaps) > half else None
    assert student.gap_recovered == recovered


@pytest.mark.parametrize(
    ("rights", "shown"),
    [
        ([0.5, 0.52, 0.48], True),
        ([0.98, 1.0, 0.97], False),
        ([0.5, 0.9, 0.97], False),
        ([0.5], True),
        ([0.99], False),
    ],
)
def test_gap_recovered_is_given_where_the_gap_is_beyond_the_noise(rights, shown):
    arms, finished, decisions = [], {"scratch": {}, "d": {}}, {}
    for seed, right in enumerate(rights):
        for name, share in (("scratch", right), ("d", min(1.0, right + 0.02))):
            path = Path(f"{name}-{seed}")
            decisions[path] = np.arange(100) < round(100 * share)
            document = {
                "test": {"accuracy": decisions[path].mean()},
                "validation": {},
                "parameters": 1,
                "bytes": 1,
            }
            finished[name][seed] = FinishedRun(path, path / "student.keras", document)
    for name, baseline in (("scratch", None), ("d", "scratch")):
        arms.append(Arm(name, name, None, baseline, tuple(range(len(rights)))))
    judged = Judge(arms, finished, {}, task="classification")
    judged._decisions.update(decisions)
    scratch, distilled = judged.students(1.0, np.ones(100, bool))
    assert scratch.teacher_gap.mean == pytest.approx(1 - np.mean(rights))
    assert (distilled.gap_recovered is not None) == shown
    if shown:
        assert distilled.gap_recovered == pytest.approx(0.02 / (1 - np.mean(rights)))
    document = {"teacher": {"score": 1.0}, "metric": "accuracy", "students": [scratch.to_json()]}
    said = _about_gap(document["students"][0], 1.0)
    assert (said is None) == shown
    if not shown:
        assert said.startswith("the teacher (1.0000) and scratch (0.") and "less than the noise (+" in said


def test_two_arms_at_chance_are_not_called_inconclusive_alone(folder, tmp_path):
    notes = []
    result = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe()],
        # Nothing can be seen in the test images: decisions are the same for all of them.
        data=save_npz(tmp_path / "dark.npz", x_test=np.zeros((48, 8, 8, 1), np.uint8)),
        repeats=2,
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
    assert "both are at chance, so this says nothing about the distillation" in report
    assert "cnn/recipe: 2 of its 2 runs are at chance on the test split" in report
    assert "the teacher is at chance on the test split" in report
    assert sum(text.startswith("two pairs show hardly anything: their 95 % interval") for text in warnings) == 1


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


def test_resume_trains_nothing_again_and_more_repeats_only_what_is_new(compared, folder):
    told = []
    again = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe()],
        data=folder / "data.npz",
        repeats=3,
        seed=4,
        latency=False,
        out=compared.out,
        resume=True,
        on_event=told.append,
    )
    trained = [event.text for event in told if isinstance(event, Note) and event.text.startswith("run ")]
    assert [text.split(": ")[1] for text in trained] == ["cnn/recipe, seed 6", "scratch, seed 6"]
    assert [run.seed for run in again.students[1].runs] == [4, 5, 6]
    assert again.students[1].runs[:2] == compared.students[1].runs


def test_a_directory_that_is_in_use_is_refused_with_the_ways_on(compared, folder):
    with pytest.raises(UsageError, match="is not empty") as caught:
        kdcli.compare(
            teacher=folder / "teacher.keras", data=folder / "data.npz", recipes=[recipe()], out=compared.out
        )
    assert "--resume" in caught.value.hint and "--overwrite" in caught.value.hint
    with pytest.raises(UsageError, match="no comparison"):
        kdcli.compare(
            teacher=folder / "teacher.keras", data=folder / "data.npz", recipes=[recipe()], out=folder, resume=True
        )


def test_labels_alone_against_labels_alone_is_inconclusive(folder):
    same = kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe(losses=[{"kind": "labels"}])],
        data=folder / "data.npz",
        repeats=2,
        latency=False,
        out=folder / "same",
    )
    student = same.students[1]
    assert (student.gain.mean, student.verdict) == (0.0, "inconclusive")
    assert all((pair.gained, pair.lost, pair.p) == (0, 0, 1.0) for pair in student.pairs)


def test_a_finished_run_is_compared_with_a_twin_of_its_own_seed(folder):
    run = kdcli.distill(
        teacher=folder / "teacher.keras", recipe=recipe(), data=folder / "data.npz", seed=7, out=folder / "given"
    )
    result = kdcli.compare(distilled=[folder / "given"], latency=False, out=folder / "with-given")
    assert [student.name for student in result.students] == ["scratch", "cnn/given"]
    assert result.students[1].runs[0].model == run.model_path
    assert [one.seed for one in result.students[0].runs] == [7]
    gain = result.students[1].gain
    assert gain.over == "examples" and gain.low < gain.mean < gain.high
    assert "no variance estimate" in (folder / "with-given" / "compare.md").read_text()


OVERFLOWING = [{"kind": "labels"}, {"kind": "soft_targets", "weight": 1e38}]


def test_a_failed_arm_is_marked_and_the_others_go_on(folder):
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
    # One that failed has no file.
    states = {gate.model: gate.state for gate in result.gates}
    assert states == {"cnn/bad": "failed", os.path.relpath(good.model): "passed"}


def test_when_every_distilled_arm_fails_so_does_the_command(folder):
    with pytest.raises(TrainingError, match="is not finite"):
        kdcli.compare(
            teacher=folder / "teacher.keras",
            recipes=[recipe(losses=OVERFLOWING)],
            data=folder / "data.npz",
            repeats=1,
            out=folder / "none",
        )


def test_what_cannot_be_asked_for_ends_the_command_at_once(folder):
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
    # Gates are no part of the training: one twin serves both.
    assert [student.name for student in result.students] == ["scratch", "cnn/recipe", "cnn/recipe-2"]


def test_runs_that_were_given_have_twins_of_their_own_splits(folder):
    runs = [folder / f"own-{seed}" for seed in (1, 2)]
    for seed, run in zip((1, 2), runs, strict=True):
        kdcli.distill(
            teacher=folder / "teacher.keras", recipe=recipe(), data=folder / "data.npz", seed=seed, out=run
        )
    result = kdcli.compare(distilled=runs, latency=False, out=folder / "own")
    assert [one.seed for one in result.students[0].runs] == [1, 2]
    for seed, run in zip((1, 2), runs, strict=True):
        twin = folder / "own" / "cnn" / "scratch" / f"seed-{seed}"
        resolved = [read_recipe(one / "recipe.yaml").recipe for one in (run, twin)]
        assert resolved[0].data_seed == resolved[1].data_seed == seed
    assert any("different validation splits" in note for note in result.notes)


def test_a_run_that_was_given_with_other_data_is_refused_before_anything_is_trained(folder, tmp_path):
    run = folder / "elsewhere"
    kdcli.distill(teacher=folder / "teacher.keras", recipe=recipe(), data=folder / "data.npz", out=run)
    other = save_npz(tmp_path / "other.npz", examples=120)
    with pytest.raises(UsageError, match="the data has changed since the run was started"):
        kdcli.compare(distilled=[run], data=other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--epochs is for arms that are trained"):
        kdcli.compare(distilled=[run], epochs=7, out=tmp_path / "out")


def test_arms_with_different_test_splits_are_refused(folder, tmp_path):
    other = save_npz(tmp_path / "other.npz", examples=120)
    recipes = [recipe(data={"source": str(path)}) for path in (folder / "data.npz", other)]
    with pytest.raises(UsageError, match="one test split, its arms have 2"):
        kdcli.compare(teacher=folder / "teacher.keras", recipes=recipes, out=tmp_path / "out")


def test_a_model_object_cannot_start_from_its_weights_twice(folder):
    with pytest.raises(UsageError, match="trained in place"):
        arms_of(folder, students=[bar_reader()], recipes=[recipe(student={"start": "file"})])


def test_a_recipe_called_scratch_does_not_meet_the_twin(folder):
    (folder / "scratch.yaml").write_text(yaml.safe_dump(recipe()))
    arms = arms_of(folder, recipes=[folder / "scratch.yaml"])
    assert len({arm.folder for arm in arms}) == 2


def test_overwrite_deletes_what_a_killed_process_left_and_nothing_foreign(folder, tmp_path):
    request = {
        "teacher": folder / "teacher.keras",
        "recipes": [recipe()],
        "data": folder / "data.npz",
        "repeats": 1,
    }
    out = tmp_path / "over"
    kdcli.compare(**request, latency=False, out=out)
    run = out / "cnn" / "recipe" / "seed-0"
    (run / ".kd-writing-99-student.keras").write_bytes(b"half")
    foreign = out / "mine.txt"
    foreign.write_text("x")
    with pytest.raises(UsageError, match="would delete what kd did not write"):
        kdcli.compare(**request, latency=False, out=out, overwrite=True)
    assert run.exists()
    foreign.unlink()
    held = Run.open(run, resume=True, overwrite=False)
    try:
        with pytest.raises(LockedError, match="in use by process"):
            kdcli.compare(**request, latency=False, out=out, overwrite=True)
    finally:
        held.close()
    kdcli.compare(**request, latency=False, out=out, overwrite=True)
    assert not (run / ".kd-writing-99-student.keras").exists()


def test_a_stopped_comparison_names_its_directory_and_goes_on(folder):
    request = {
        "teacher": folder / "teacher.keras",
        "recipes": [recipe()],
        "data": folder / "data.npz",
        "repeats": 1,
    }
    calls = iter([None] * 3)
    with pytest.raises(Interrupted) as caught:
        kdcli.compare(**request, latency=False, out=folder / "stopped", stop=lambda: next(calls, 143))
    assert caught.value.run == folder / "stopped"
    result = kdcli.compare(**request, latency=False, out=folder / "stopped", resume=True)
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
    assert "scratch: trained on labels alone with weight 1, as kd train-teacher does" in plan.findings
    assert not [finding for finding in plan.findings if "times the rate" in finding]


def test_an_arm_that_learns_at_another_rate_than_its_baseline_is_warned_of(folder):
    told: list = []
    sgd = {**TRAIN, "optimizer": "sgd"}
    losses = [{"kind": "labels", "weight": 0.05}, {"kind": "soft_targets", "weight": 0.05}]
    kdcli.compare(
        teacher=folder / "teacher.keras",
        recipes=[recipe(train=sgd, losses=losses)],
        data=folder / "data.npz",
        repeats=1,
        latency=False,
        out=folder / "rates",
        on_event=lambda event: told.append(event.text) if isinstance(event, Note) else None,
    )
    (warned,) = (text for text in told if "times the rate" in text)
    assert warned.startswith(
        "cnn/recipe: its losses on labels and outputs have a total weight of 0.1, and the steps"
    )
    assert "scratch: trained on labels alone with weight 1, as kd train-teacher does" in told
    # So the baseline is, in the recipe that its run leaves.
    read = read_recipe(folder / "rates" / "cnn" / "scratch" / "seed-0" / "recipe.yaml").recipe
    assert [(loss.kind, loss.weight) for loss in read.losses] == [("labels", 1.0)]


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
        repeats=2,
        latency=False,
        out=tmp_path / "out",
    )
    assert result.metric == "rmse"
    scratch, distilled = result.students
    assert distilled.gain.mean == pytest.approx(scratch.mean - distilled.mean)
    assert distilled.accuracy is None and distilled.mcnemar_p is None
    assert result.smallest_visible_gain is None


def test_test_examples_that_were_trained_on_are_counted(tmp_path, folder):
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
    assert "5 test examples are in the training split too" in (tmp_path / "out" / "compare.md").read_text()


# The arms alone: nothing is trained.


def arms_of(folder, **given):
    given = {
        "teacher": folder / "teacher.keras",
        "data": folder / "data.npz",
        "students": (),
        "distilled": (),
    } | given
    given = {"repeats": None, "recipes": [recipe()]} | given
    return make_arms(**given)


def test_one_twin_serves_recipes_that_differ_in_their_losses_only(folder):
    other = recipe(losses=[{"kind": "soft_targets", "temperature": 8.0}])
    arms = arms_of(folder, recipes=[recipe(), other])
    assert [arm.name for arm in arms] == ["scratch", "cnn/recipe", "cnn/recipe-2"]
    assert [arm.baseline for arm in arms] == [None, "scratch", "scratch"]


def test_another_training_or_data_or_student_needs_a_twin_of_its_own(folder):
    longer = recipe(train={**TRAIN, "epochs": 2})
    arms = arms_of(folder, recipes=[recipe(), longer])
    assert [arm.name for arm in arms] == ["scratch", "cnn/scratch-2", "cnn/recipe", "cnn/recipe-2"]
    assert [arm.baseline for arm in arms[2:]] == ["scratch", "cnn/scratch-2"]
    wider = recipe(student={"model": {**CNN, "width": 3}})
    arms = arms_of(folder, recipes=[recipe(), wider])
    assert [arm.folder for arm in arms] == ["cnn/scratch", "cnn-2/scratch", "cnn/recipe", "cnn-2/recipe"]


def test_the_start_of_a_file_is_kept_where_the_recipe_asks_for_it(folder):
    arms = arms_of(folder, recipes=[recipe(student={"model": CNN, "start": "file"})])
    assert {arm.at(0).recipe.student.start for arm in arms} == {"file"}


def test_repeats_with_finished_runs_alone_are_refused(folder):
    with pytest.raises(UsageError, match="--repeats is for arms that are trained"):
        arms_of(folder, recipes=[], distilled=[folder], repeats=2)


def test_a_folder_that_is_no_finished_run_is_refused(folder):
    with pytest.raises(ModelError, match="no finished run"):
        arms_of(folder, recipes=[], distilled=[folder])


def test_several_teachers_are_refused(folder):
    first = recipe(teacher={"model": {"kind": "file", "path": "a.keras"}})
    second = recipe(teacher={"model": {"kind": "file", "path": "b.keras"}})
    with pytest.raises(UsageError, match="one teacher"):
        arms_of(folder, recipes=[first, second], teacher=None)


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


def test_gates_hold_for_every_distilled_arm(compared, folder):
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


def test_a_latency_gate_without_latency_is_refused_before_anything_is_trained(folder):
    with pytest.raises(UsageError, match="nothing is timed"):
        kdcli.compare(
            teacher=folder / "teacher.keras",
            recipes=[recipe()],
            data=folder / "data.npz",
            latency=False,
            gates=["latency_ratio<=1"],
            out=folder / "untimed",
        )
    assert not (folder / "untimed").exists()


def test_times_are_measured_once_for_the_files_that_lie_there(compared, folder):
    before = json.loads((compared.out / "compare.json").read_text())
    request = {"teacher": folder / "teacher.keras", "recipes": [recipe()], "data": folder / "data.npz", "seed": 4}
    for latency in (True, False):
        again = kdcli.compare(**request, repeats=3, latency=latency, out=compared.out, resume=True).to_json()
        assert [one["latency"] for one in again["students"]] == [one["latency"] for one in before["students"]]
        assert again["latency_noise_floor"] == before["latency_noise_floor"]


def test_a_useless_teacher_is_refused_before_a_twin_is_trained(folder, tmp_path):
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


def test_a_file_named_twice_is_one_student(folder, tmp_path):
    path = tmp_path / "s.keras"
    bar_reader().save(path)
    arms = arms_of(folder, students=[path, tmp_path / "." / "s.keras"], recipes=[recipe()])
    assert [arm.name for arm in arms] == ["scratch", "s/recipe"]
