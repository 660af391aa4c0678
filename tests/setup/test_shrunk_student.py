"""A shrunk student in runs, stages and comparisons."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.errors import ModelError, UsageError
from kdcli.events import Note
from kdcli.recipe.reader import read_recipe

SHRUNK = {"kind": "shrunk", "keep": 0.5}
SOFT = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9, "temperature": 2}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shrunk")
    save_npz(folder / "data.npz")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(32, 3, activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(32, 3, activation="relu", name="second")(x)
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(x), name="teacher")
    x, y = blobs(240, seed=3)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x / 255.0, y, epochs=10, batch_size=32, verbose=0)
    model.save(folder / "teacher.keras")
    return folder


def make_recipe(folder, student=None, **sections):
    return {
        "data": {"source": str(folder / "data.npz")},
        "teacher": {"model": {"kind": "file", "path": str(folder / "teacher.keras")}, "input": {"scale": "unit"}},
        "student": student or {"model": SHRUNK},
        "losses": SOFT,
        "train": {"epochs": 1, "batch_size": 16, "optimizer": {"kind": "sgd", "learning_rate": 1e-12}},
        **sections,
    }


def conv(path, name="second"):
    return keras.saving.load_model(path).get_layer(name).kernel.numpy()


def test_the_student_has_a_part_of_the_teachers_weights(folder, tmp_path):
    # The learning rate is so small that the weights stay.
    run = kdcli.distill(recipe=make_recipe(folder), out=tmp_path / "run")
    ours, theirs = conv(run.model_path), conv(folder / "teacher.keras")
    assert ours.shape == (3, 3, 16, 16)
    # Each kernel of the student is one of the teacher's, without the rows that read removed channels.
    bias = keras.saving.load_model(folder / "teacher.keras").get_layer("second").bias.numpy()
    own = keras.saving.load_model(run.model_path).get_layer("second").bias.numpy()
    columns = [int(np.flatnonzero(bias == value)[0]) for value in own]
    before = keras.saving.load_model(folder / "teacher.keras").get_layer("first").bias.numpy()
    rows = [
        int(np.flatnonzero(before == value)[0])
        for value in keras.saving.load_model(run.model_path).get_layer("first").bias.numpy()
    ]
    np.testing.assert_allclose(ours, theirs[..., rows, :][..., columns], atol=1e-6)
    recipe = read_recipe(run.run / "recipe.yaml").recipe
    assert recipe.student.start == "inherited"
    assert recipe.student.input.scale == "unit"


def test_fresh_weights_have_the_same_shape(folder, tmp_path):
    student = {"model": SHRUNK, "start": "fresh"}
    runs = [
        kdcli.distill(recipe=make_recipe(folder, student), out=tmp_path / str(number), seed=seed)
        for number, seed in enumerate((0, 0, 1))
    ]
    one, same, other = (conv(run.model_path) for run in runs)
    assert one.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_largest_student_within_a_number_of_parameters(folder, tmp_path):
    notes = []
    student = {"model": {"kind": "shrunk", "max_params": 3000, "round_to": 1}}
    run = kdcli.distill(recipe=make_recipe(folder, student), out=tmp_path / "run", on_event=notes.append)
    assert 2700 < run.parameters <= 3000
    assert any(isinstance(one, Note) and one.text.startswith("student: shrunk from ") for one in notes)
    student["model"]["max_params"] = 5
    with pytest.raises(UsageError, match="max_params 5: the smallest student of teacher has"):
        kdcli.distill(recipe=make_recipe(folder, student), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_is_resumed_with_the_same_student(folder, tmp_path):
    recipe = make_recipe(folder, train={"epochs": 2, "batch_size": 16})
    whole = kdcli.distill(recipe=recipe, out=tmp_path / "whole")
    asked = []

    def stop():
        asked.append(1)
        return 130 if len(asked) == 2 else None

    with pytest.raises(kdcli.errors.Interrupted):
        kdcli.distill(recipe=recipe, out=tmp_path / "cut", stop=stop)
    resumed = kdcli.distill(recipe=recipe, out=tmp_path / "cut", resume=True)
    np.testing.assert_array_equal(conv(whole.model_path), conv(resumed.model_path))


STAGES = [
    {"student": {"model": {"kind": "shrunk", "keep": 0.75}}},
    {"student": {"model": {"kind": "shrunk", "of": "previous", "keep": 0.5}}},
    {"student": {"model": {"kind": "shrunk", "of": "previous", "keep": 0.25}}},
]


def test_stages_count_against_the_first_teacher_which_teaches_them(folder, tmp_path):
    run = kdcli.distill(recipe=make_recipe(folder, stages=STAGES), out=tmp_path / "run")
    paths = [run.run / "stages/1/student.keras", run.run / "stages/2/student.keras", run.model_path]
    assert [conv(path).shape[-1] for path in paths] == [24, 16, 8]
    for folder_ in (run.run / "stages/1", run.run / "stages/2", run.run):
        summary = json.loads((folder_ / "summary.json").read_text())
        assert summary["teacher"]["path"].endswith("teacher.keras")
    # Each student has channels of the one before.
    biases = [set(keras.saving.load_model(path).get_layer("first").bias.numpy().tolist()) for path in paths]
    assert biases[2] <= biases[1] <= biases[0]
    (tmp_path / "run").rename(tmp_path / "moved")
    shown = kdcli.distill(recipe=make_recipe(folder, stages=STAGES), out=tmp_path / "moved", resume=True)
    assert shown.model_path == tmp_path / "moved/student.keras"


def test_the_previous_student_may_teach_a_shrunk_one(folder, tmp_path):
    stages = [STAGES[0], {**STAGES[1], "teacher": "previous"}]
    run = kdcli.distill(recipe=make_recipe(folder, stages=stages), out=tmp_path / "run")
    summary = json.loads((run.run / "summary.json").read_text())
    assert summary["teacher"]["path"].endswith("stages/1/student.keras")
    # Half of the first teacher's channels, not of this teacher's.
    assert conv(run.model_path).shape[-1] == 16


def test_the_first_stage_has_no_previous_student(folder, tmp_path):
    with pytest.raises(UsageError, match=r"student\.model\.of is previous, but the first stage has no previous"):
        kdcli.distill(recipe=make_recipe(folder, stages=STAGES[1:]), out=tmp_path / "run")
    single = make_recipe(folder, {"model": {"kind": "shrunk", "of": "previous"}})
    with pytest.raises(UsageError, match=r"student\.model\.of is previous"):
        kdcli.distill(recipe=single, out=tmp_path / "run")


def test_a_model_that_is_no_part_of_the_teacher_is_refused(folder, tmp_path):
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(64, 3, name="first"), keras.layers.Flatten(),
                      keras.layers.Dense(3, name="last")]).save(tmp_path / "other.keras")  # fmt: skip
    student = {"model": {"kind": "shrunk", "of": str(tmp_path / "other.keras")}}
    with pytest.raises(ModelError, match="the layer first with 64 channels is not part of the teacher"):
        kdcli.distill(recipe=make_recipe(folder, student), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"model": SHRUNK, "start": "file"}, "a shrunk student has start: inherited or fresh"),
        ({"model": {"kind": "zoo", "name": "mlp"}, "start": "inherited"}, "start: inherited is for"),
        ({"model": {"kind": "shrunk", "keep": 0.5, "max_params": 5}}, "keep and max_params exclude each other"),
        ({"model": {"kind": "shrunk", "keep": 0}}, "must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, student, message):
    with pytest.raises(UsageError, match=message):
        read_recipe(make_recipe(folder, student))


def test_recorded_outputs_have_no_graph(folder, tmp_path):
    kdcli.predict(folder / "teacher.keras", data=folder / "data.npz", out=tmp_path / "t.npz", split="train")
    recipe = make_recipe(folder)
    recipe["teacher"] = {"model": {"kind": "file", "path": str(tmp_path / "t.npz")}}
    with pytest.raises(ModelError, match="only a Keras model can be shrunk") as caught:
        kdcli.distill(recipe=recipe, out=tmp_path / "run")
    assert caught.value.exit_code == 4


def test_a_comparison_pairs_equal_shapes_and_names_what_inherits(folder, tmp_path):
    recipes = []
    for start in ("inherited", "fresh"):
        recipe = make_recipe(folder, {"model": SHRUNK, "start": start}, train={"epochs": 1, "batch_size": 16})
        recipes.append(recipe)
    comparison = kdcli.compare(recipes=recipes, out=tmp_path / "c", repeats=2, latency=False)
    students = {one["name"]: one for one in comparison.to_json()["students"]}
    inherited, fresh = (next(name for name in students if f"shrunk-{kind}/" in name and "scratch" not in name)
                        for kind in ("inherited", "fresh"))  # fmt: skip
    assert {one["parameters"] for one in students.values()} == {students[inherited]["parameters"]}
    folders = {name: students[name]["baseline"] for name in (inherited, fresh)}
    assert folders[inherited] != folders[fresh]
    assert comparison.to_json()["start"] == "mixed"
    text = (tmp_path / "c/compare.md").read_text()
    assert "an arm with `inherited` in its name starts" in text
    # Both seeds of an inherited arm start from the same weights, those of a fresh one do not.
    assert students["scratch"]["status"] == "finished"


def test_a_chain_of_shrunk_students_is_compared_with_a_fresh_one(folder, tmp_path):
    recipe = make_recipe(folder, stages=STAGES)
    del recipe["student"]
    comparison = kdcli.compare(recipes=[recipe], out=tmp_path / "c", repeats=1, latency=False)
    students = comparison.to_json()["students"]
    assert [one["name"] for one in students] == ["scratch", "shrunk-inherited/recipe"]
    assert students[0]["parameters"] == students[1]["parameters"]
    started = read_recipe(tmp_path / "c/shrunk-inherited/recipe/seed-0/stages/1/recipe.yaml").recipe
    assert started.student.start == "inherited"
    alone = read_recipe(next((tmp_path / "c").glob("*/scratch/seed-0/recipe.yaml"))).recipe
    assert alone.student.start == "fresh"


def test_a_missing_student_names_kd_shrink(folder):
    recipe = make_recipe(folder)
    del recipe["student"]
    with pytest.raises(UsageError) as caught:
        kdcli.distill(recipe=recipe)
    assert "kd shrink TEACHER --data " in caught.value.hint
