"""Stages in a recipe: what a stage says replaces what the recipe says, and nothing else does."""

from __future__ import annotations

import json

import pytest

from kdcli.errors import RecipeError
from kdcli.recipe.model_sections import TeacherSection
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.recipe.stages import drop_settings, merge_sections
from kdcli.recipe.training import TrainSection

WRITTEN = {
    "train": {"epochs": 5, "batch_size": 32, "checkpoint": {"every": "5m", "keep": 3}},
    "student": {"model": {"kind": "zoo", "name": "mlp"}},
    "stages": [
        {
            "student": {"model": {"kind": "zoo", "name": "cnn", "width": 32}},
            "train": {"steps": 7, "early_stopping": None, "checkpoint": {"keep": 1}},
            "losses": [{"kind": "soft_targets", "temperature": 2.0}],
        },
        {},
    ],
}


def test_a_stage_replaces_key_by_key_and_a_kind_as_a_whole():
    recipe = read_recipe(WRITTEN).recipe
    first = recipe.stages[0]
    train = merge_sections(recipe.train, first.train)
    assert (train.batch_size, train.steps, train.checkpoint.every, train.checkpoint.keep) == (32, 7, "5m", 1)
    assert merge_sections(recipe.train, drop_settings(first.train, frozenset({"steps", "checkpoint"}))).epochs == 5
    assert drop_settings(first.train, frozenset({"steps"})).model_fields_set == {"early_stopping", "checkpoint"}
    student = merge_sections(recipe.student, first.student)
    assert (student.model.name, student.model.width, student.start) == ("cnn", 32, "auto")
    assert merge_sections(recipe.train, None) == recipe.train == merge_sections(recipe.train, TrainSection())


def test_written_out_and_read_again_a_stage_says_no_more_than_before():
    recipe = read_recipe(WRITTEN).recipe
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert values["stages"][1] == {}
    assert values["stages"][0]["train"] == {"steps": 7, "early_stopping": None, "checkpoint": {"keep": 1}}
    again = read_recipe(recipe).recipe
    assert again == recipe
    assert again.stages[0].train.model_fields_set == {"steps", "early_stopping", "checkpoint"}
    assert merge_sections(again.train, again.stages[0].train) == merge_sections(
        recipe.train, recipe.stages[0].train
    )


def test_settings_reach_into_stages():
    read = read_recipe(WRITTEN, settings=["stages.0.student.model.width=8", "stages.1.train={epochs: 2}"])
    assert read.recipe.stages[0].student.model.width == 8
    assert read.recipe.stages[1].train.epochs == 2
    assert read.origins.of(("stages", 0, "student", "model", "width")) == "--set stages.0.student.model.width"


FAULTY = """stages:
  - student: {model: {kind: zoo, name: cnn}}
    train: {epoch: 3}
  - train: {seed: 3}
  - losses: [{kind: hint}, {kind: hint}]
  - data: {source: digits}
teacher:
  - {weigth: 2}
  - {weight: -1}
"""


def test_faults_in_stages_and_teachers_have_lines_and_suggestions(tmp_path):
    path = tmp_path / "faulty.yaml"
    path.write_text(FAULTY)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    found = {fault.setting: (fault.line, fault.message) for fault in caught.value.faults}
    assert found["stages.0.train.epoch"] == (3, "unknown key")
    assert found["stages.1"] == (4, "train.seed applies to all stages: write it in the recipe's own train")
    assert found["stages.2"] == (5, "two losses are named 'hint': give one of them another `name:`")
    assert found["stages.3.data"] == (6, "unknown key")
    assert found["teacher.0.weigth"] == (8, "unknown key")
    assert found["teacher.1.weight"] == (9, "must be > 0, got -1")
    assert "did you mean 'weight'?" in caught.value.message and "did you mean 'epochs'?" in caught.value.message


def test_a_teacher_is_one_or_a_list_and_stays_as_it_was_written():
    one = Recipe.model_validate({"teacher": {"views": 4}})
    assert (one.teacher.views, len(one.teachers), one.is_ensemble) == (4, 1, False)
    assert one.model_dump(by_alias=True)["teacher"]["views"] == 4
    two = Recipe.model_validate({"teacher": [{"views": 4}, {"weight": 2.0}]})
    assert (two.teacher.views, two.teachers[1].weight, two.is_ensemble) == (4, 2.0, True)
    assert [entry["weight"] for entry in two.model_dump(by_alias=True)["teacher"]] == [None, 2.0]
    assert set(two.sides) == {"teacher.0", "teacher.1", "student"} and set(one.sides) == {"teacher", "student"}
    assert two.with_teachers(TeacherSection(views=2)).teacher.views == 2
    with pytest.raises(RecipeError, match="taught_by: unknown key"):
        read_recipe({"taught_by": {}})
    assert "teacher" in Recipe.model_json_schema(by_alias=True)["properties"]


def test_a_setting_of_the_teacher_without_a_number_is_for_all_of_several():
    listed = {"teacher": [{"views": 2}, {}]}
    read = read_recipe(listed, settings=["teacher.views=4", "teacher.1.weight=3.0"])
    assert [section.views for section in read.recipe.teachers] == [4, 4]
    assert [section.weight for section in read.recipe.teachers] == [None, 3.0]
    options = {"teacher.signature": ("--signature", "serve")}
    assert [s.signature for s in read_recipe(listed, options=options).recipe.teachers] == ["serve", "serve"]


def test_one_section_holds_for_all_teachers_that_are_named(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("teacher: {views: 4}\n")
    options = {f"teacher.{n}.model": ("--teacher", {"kind": "file", "path": f"{n}.keras"}) for n in range(2)}
    read = read_recipe(path, teachers=2, options=options, settings=["teacher.0.weight=2.0"])
    assert [section.views for section in read.recipe.teachers] == [4, 4]
    assert [section.model.path for section in read.recipe.teachers] == ["0.keras", "1.keras"]
    assert [section.weight for section in read.recipe.teachers] == [2.0, None]
    assert read.origins.of(("teacher", 1, "model", "path")) == "--teacher"
    assert read.origins.of(("teacher", 1, "views")) == f"{path}:1"


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("written", [3, "strong.keras", False])
def test_a_teacher_that_is_no_section_is_a_fault_however_many_are_named(tmp_path, count, written):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"teacher: {json.dumps(written)}\n")
    places = ["teacher.model"] if count == 1 else ["teacher.0.model", "teacher.1.model"]
    options = {place: ("--teacher", {"kind": "file", "path": "t.keras"}) for place in places}
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, teachers=count, options=options)
    (fault,) = caught.value.faults
    assert (fault.setting, fault.line, fault.message) == ("teacher", 1, f"must be a mapping, got {written!r}")


@pytest.mark.parametrize(
    ("written", "setting", "named"),
    [
        ({"train": 3}, "train.epochs=2", "train"),
        ({"losses": 3}, "losses.0.weight=2", "losses"),
        ({"stages": [3]}, "stages.0.train.epochs=2", "stages.0"),
        ({"teacher": [{}, 3]}, "teacher.1.weight=2", "teacher.1"),
    ],
)
def test_a_setting_does_not_hide_what_is_no_section(written, setting, named):
    with pytest.raises(RecipeError) as caught:
        read_recipe(written, settings=[setting])
    assert [fault.setting for fault in caught.value.faults] == [named]
