"""Ensembles of teachers: each member is cached separately; their mixture is used for training and metrics."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import yaml
from conftest import bar_reader, blobs, save_npz

import kdcli
from kdcli.errors import KdError
from kdcli.recipe.reader import read_recipe

SOFT = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "temperature": 3.0}]
HINT = {"kind": "hint", "teacher_layer": "wide", "student_layer": "narrow"}
OPTIONS = {"epochs": 1, "seed": 3, "settings": ["train.batch_size=16"]}


def save_teacher(path, *, seed, units=3, activation=None, wide=None):
    """Save a model that classifies the bars, slightly different for each seed."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    if wide:
        x = keras.layers.Dense(64, name=wide, kernel_initializer="identity")(x)
    model = keras.Model(inputs, keras.layers.Dense(units, activation=activation)(x))
    kernel = bar_reader(classes=3).layers[-1].get_weights()[0][:, :units]
    noise = np.random.default_rng(seed).normal(0, 0.05, kernel.shape)
    model.layers[-1].set_weights([kernel + noise, np.zeros(units)])
    model.save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    save_npz(folder / "data.npz")
    save_teacher(folder / "a.keras", seed=1, wide="wide")
    save_teacher(folder / "b.keras", seed=2, activation="softmax")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4, name="narrow")]
    keras.Sequential([*layers, keras.layers.Dense(3)]).save(folder / "student.keras")
    return folder


def distill(folder, out, *, losses=SOFT, recipe=None, teacher=None, **options):
    sections = {"losses": losses, **(recipe or {})}
    arguments = {"student": folder / "student.keras", "data": folder / "data.npz", **OPTIONS, **options}
    return kdcli.distill(teacher=teacher, recipe=sections, out=out, **arguments)


def list_teachers(folder, *weights):
    names = ("a", "b")
    return [
        {"model": {"kind": "file", "path": str(folder / f"{name}.keras")}, "weight": weight}
        for name, weight in zip(names, weights, strict=False)
    ]


def softmax(logits):
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    recipe = {"teacher": list_teachers(folder, 3.0, 1.0)}
    recipe["teacher"][1]["temperature"] = 2.0
    return distill(folder, tmp_path_factory.mktemp("runs") / "two", losses=[*SOFT, HINT], recipe=recipe)


def test_the_summary_describes_the_mixture_and_each_member(run, folder):
    document = json.loads((run.run / "summary.json").read_text())
    teacher = document["teacher"]
    assert set(teacher) == {"path", "accuracy", "agreement", "members"}
    assert teacher["path"] is None
    first, second = teacher["members"]
    assert [first["path"][-7:], second["path"][-7:]] == ["a.keras", "b.keras"]
    assert [first["weight"], second["weight"], second["temperature"]] == [0.75, 0.25, 2.0]
    assert first["accuracy"] > 0.9 and second["accuracy"] > 0.9
    x, _ = blobs(48, seed=1)
    x = x.astype(np.float32) / 255.0
    one, other = (keras.saving.load_model(folder / f"{name}.keras").predict(x, verbose=0) for name in "ab")
    mixed = 0.75 * softmax(one) + 0.25 * softmax(np.log(other) / 2.0)
    with np.load(run.run / "predictions.npz") as file:
        agreement = np.mean(file["logits"].argmax(-1) == mixed.argmax(-1))
    assert teacher["agreement"] == pytest.approx(agreement, abs=1e-6)


def test_each_member_is_cached_and_features_come_from_the_first(run):
    targets = run.to_json()["targets"]
    first, second = targets["members"]
    # For 86 examples: float32 logits of both, and the wide layer of the first in float16.
    assert (first["bytes"], second["bytes"]) == (86 * (4 * 3 + 2 * 64), 86 * 4 * 3)
    assert targets["bytes"] == first["bytes"] + second["bytes"]
    assert len({first["fingerprint"], second["fingerprint"], targets["fingerprint"]}) == 3
    assert set(targets) - {"members"} == {"mode", "hit", "bytes", "views", "precision", "kept", "fingerprint"}


def test_the_recipe_of_the_run_reproduces_the_student(run, folder, tmp_path):
    values = yaml.safe_load((run.run / "recipe.yaml").read_text())
    assert values["ensemble"] == {"mix": "probabilities"}
    assert [entry["weight"] for entry in values["teacher"]] == [3.0, 1.0]
    assert [entry["output_kind"] for entry in values["teacher"]] == ["logits", "probabilities"]
    assert [entry["input"]["scale"] for entry in values["teacher"]] == ["unit", "unit"]
    again = kdcli.distill(recipe=run.run / "recipe.yaml", out=tmp_path / "again")
    assert again.to_json()["targets"]["hit"] and again.test.accuracy == run.test.accuracy
    ours, theirs = (keras.saving.load_model(one.model_path).get_weights() for one in (run, again))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    repeated = kdcli.distill(out=run.run, resume=True)
    assert repeated.document["best_epoch"] == run.best_epoch


def test_resuming_with_another_member_is_refused(run, folder, tmp_path):
    inputs = json.loads((run.run / "environment.json").read_text())["inputs"]
    assert {"teacher.0", "teacher.1", "student", "data"} <= set(inputs)
    other = save_teacher(tmp_path / "other.keras", seed=9)
    with pytest.raises(KdError, match=r"the teacher\.1 has changed") as caught:
        kdcli.distill(teacher=[folder / "a.keras", other], out=run.run, resume=True)
    assert caught.value.exit_code == 2


def test_adding_a_member_computes_only_its_outputs(folder, tmp_path, own_cache, monkeypatch):
    from kdcli.teacher.inference import TeacherPass

    names = []
    call = TeacherPass.__call__

    def count_call(self, *positions, **options):
        names.append(self.teacher.name)
        return call(self, *positions, **options)

    monkeypatch.setattr(TeacherPass, "__call__", count_call)
    distill(folder, tmp_path / "one", teacher=[folder / "a.keras"])
    assert names
    names.clear()
    run = distill(folder, tmp_path / "two", teacher=[folder / "a.keras", folder / "b.keras"])
    assert {name[-7:] for name in names} == {"b.keras"}
    assert [one["hit"] for one in run.to_json()["targets"]["members"]] == [True, False]


def test_an_ensemble_of_one_equals_its_teacher(folder, tmp_path):
    single = distill(folder, tmp_path / "single", teacher=folder / "a.keras")
    listed = distill(folder, tmp_path / "listed", recipe={"teacher": list_teachers(folder, 2.0)})
    ours, theirs = (keras.saving.load_model(one.model_path).get_weights() for one in (single, listed))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert set(single.to_json()["teacher"]) == {"path", "accuracy", "agreement"}


def test_live_object_and_recorded_members_are_mixed_alike(folder, tmp_path):
    cached = distill(folder, tmp_path / "cached", teacher=[folder / "a.keras", folder / "b.keras"])
    models = [folder / "a.keras", keras.saving.load_model(folder / "b.keras")]
    live = distill(
        folder, tmp_path / "live", teacher=models, settings=["train.batch_size=16", "teacher.targets=live"]
    )
    assert live.to_json()["targets"]["mode"] == "live"
    kdcli.predict(folder / "b.keras", data=folder / "data.npz", split="train", out=tmp_path / "b.npz")
    recorded = distill(folder, tmp_path / "recorded", teacher=[folder / "a.keras", tmp_path / "b.npz"])
    found = [keras.saving.load_model(one.model_path).get_weights() for one in (cached, live, recorded)]
    for weights in zip(*found, strict=True):
        np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)
        np.testing.assert_allclose(weights[0], weights[2], atol=1e-4)
    teacher = recorded.to_json()["teacher"]
    # Recorded outputs do not cover the test split, so the mixture is unknown there.
    assert teacher["accuracy"] is None and teacher["members"][0]["accuracy"] > 0.9


def test_all_members_use_the_same_views(folder, tmp_path):
    settings = ["train.batch_size=16", "data.augment=[{kind: shift, pixels: 1}]", "teacher.1.views=2"]
    options = {"teacher": [folder / "a.keras", folder / "b.keras"], "settings": settings, "epochs": 2}
    run = distill(folder, tmp_path / "views", **options)
    assert [entry.views for entry in read_recipe(run.run / "recipe.yaml").recipe.teachers] == [2, 2]


def test_the_plan_shows_every_member(folder, tmp_path):
    arguments = {"teacher": [folder / "a.keras", folder / "b.keras"], "dry_run": True}
    plan = distill(folder, tmp_path / "plan", losses=[*SOFT, HINT], **arguments)
    assert plan.teacher["name"] == "2 teachers"
    assert [one["logits_from"][:18] for one in plan.teacher["members"]] == ["output", "before the softmax"]
    assert plan.teacher["parameters"] == sum(one["parameters"] for one in plan.teacher["members"])
    findings = " ".join(plan.findings)
    assert "the teachers' probabilities are mixed at the temperature of each term: 0.500" in findings
    assert "features come from the first teacher" in findings
    assert findings.count("accuracy on training examples is") == 2
    assert not (tmp_path / "plan").exists()


REFUSED = {
    "another output kind": (
        {"task": "regression"},
        {},
        2,
        r"teacher.1.temperature applies to classes, and this teacher outputs values",
    ),
    "one at chance": ({}, {"teacher": ["a", "blind"]}, 4, r"the teacher \(.*blind.keras\) is at chance level"),
    "views": ({}, {"settings": ["teacher.0.views=2", "teacher.1.views=3"]}, 2, "teacher.1.views is 3 and"),
    "number": ({"teacher": [{}, {}, {}]}, {}, 2, "--teacher is given 2 times, but recipe lists 3"),
    "lonely mix": ({"ensemble": {"mix": "logits"}}, {"teacher": ["a"]}, 2, "ensemble applies to several"),
    "lonely weight": ({"teacher": {"weight": 2.0}}, {"teacher": ["a"]}, 2, "teacher.weight applies to several"),
    "untrained": ({"teacher": [{"model": {"kind": "zoo", "name": "mlp"}}] * 2}, {"teacher": None}, 2, "zoo model"),
    "missing": ({"teacher": [{}, {}]}, {"teacher": None}, 2, "no teacher: teacher.model is not set by the recipe"),
    "same": ({}, {"teacher": ["a", "b"], "student": "b"}, 4, "teacher and student are the same model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_ensemble_is_refused_before_training(folder, tmp_path, name):
    recipe, options, code, message = REFUSED[name]
    recipe, options = dict(recipe), {"teacher": ["a", "b"], **options}
    task = recipe.pop("task", None)
    if task:
        values = {f"y_{split}": np.arange(n, dtype=np.float32) / n for split, n in (("train", 96), ("test", 48))}
        save_npz(tmp_path / "values.npz", **values)
        save_teacher(tmp_path / "v.keras", seed=1, units=1)
        options |= {"data": tmp_path / "values.npz", "teacher": None, "student": tmp_path / "v.keras"}
        entry = {"model": {"kind": "file", "path": str(tmp_path / "v.keras")}}
        recipe |= {"teacher": [entry, {**entry, "temperature": 2.0}], "data": {"task": task}}
    save_teacher(folder / "blind.keras", seed=1, units=3)
    blind = keras.saving.load_model(folder / "blind.keras")
    blind.set_weights([w * 0 for w in blind.get_weights()])
    blind.save(folder / "blind.keras")
    if options.get("teacher"):
        options["teacher"] = [folder / f"{one}.keras" for one in options["teacher"]]
    if options.get("student") == "b":
        options["student"] = folder / "b.keras"
    with pytest.raises(KdError, match=message) as caught:
        distill(folder, tmp_path / "refused", recipe=recipe, **options)
    assert caught.value.exit_code == code
    assert not (tmp_path / "refused").exists()


def test_different_output_kinds_are_refused(folder, tmp_path):
    arguments = {"teacher": [folder / "a.keras", folder / "b.keras"]}
    settings = ["train.batch_size=16", "data.task=multilabel", "teacher.0.output_kind=values"]
    labels = {
        f"y_{split}": np.eye(3, dtype=np.int64)[blobs(n, seed=s)[1]]
        for split, n, s in (("train", 96, 0), ("test", 48, 1))
    }
    save_npz(tmp_path / "many.npz", **labels)
    with pytest.raises(KdError) as caught:
        distill(folder, tmp_path / "no", data=tmp_path / "many.npz", **{**arguments, "settings": settings})
    assert caught.value.exit_code == 4


def test_train_teacher_refuses_a_list_of_teachers(folder, tmp_path):
    recipe = {"teacher": [{"model": {"kind": "zoo", "name": "mlp"}}] * 2}
    with pytest.raises(KdError, match="the recipe lists 2 teachers, but kd train-teacher trains only one"):
        kdcli.train_teacher(recipe=recipe, data=folder / "data.npz", out=tmp_path / "t")


def test_the_command_accepts_several_teachers(kd, folder, tmp_path):
    words = ["distill", "--teacher", folder / "a.keras", "--teacher", folder / "b.keras", "--dry-run"]
    words += ["--student", folder / "student.keras", "--data", folder / "data.npz", "--set", "ensemble.mix=logits"]
    ran = kd(*words)
    assert ran.code == 0, ran.err
    assert "teacher   2 teachers: " in ran.out and "the teachers' logits are mixed" in ran.out
    assert ran.out.count("teacher   ") == 3


def test_a_comparison_accepts_a_list_of_teachers(folder, tmp_path):
    recipe = {
        "teacher": list_teachers(folder, 1.0, 1.0),
        "losses": SOFT,
        "data": {"source": str(folder / "data.npz")},
    }
    recipe |= {"train": {"epochs": 1, "batch_size": 16}}
    arguments = {"students": [folder / "student.keras"], "recipes": [recipe], "repeats": 1, "latency": False}
    document = kdcli.compare(**arguments, out=tmp_path / "compared").to_json()
    assert len(document["teacher"]["members"]) == 2 and document["teacher"]["path"] is None
    assert document["teacher"]["accuracy"] > 0.9
    assert document["teacher"]["parameters"] == 64 * 64 + 64 + 2 * (64 * 3 + 3)
    assert [student["status"] for student in document["students"]] == ["finished", "finished"]
