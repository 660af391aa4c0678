"""Settings from outside: the teachers of the command line, and settings that do not fit."""

from __future__ import annotations

import json

import pytest

from kdcli.errors import RecipeError
from kdcli.recipe.model_sections import TeacherSection
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe


def test_a_single_teacher_and_a_list_of_teachers_are_both_kept_as_written():
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


def test_a_teacher_setting_without_a_number_applies_to_all_members():
    listed = {"teacher": [{"views": 2}, {}]}
    read = read_recipe(listed, settings=["teacher.views=4", "teacher.1.weight=3.0"])
    assert [section.views for section in read.recipe.teachers] == [4, 4]
    assert [section.weight for section in read.recipe.teachers] == [None, 3.0]
    options = {"teacher.signature": ("--signature", "serve")}
    assert [s.signature for s in read_recipe(listed, options=options).recipe.teachers] == ["serve", "serve"]


def test_a_single_section_applies_to_all_teachers_of_the_command_line(tmp_path):
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
def test_a_teacher_that_is_not_a_section_is_a_fault(tmp_path, count, written):
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
def test_a_setting_does_not_hide_an_invalid_section(written, setting, named):
    with pytest.raises(RecipeError) as caught:
        read_recipe(written, settings=[setting])
    assert [fault.setting for fault in caught.value.faults] == [named]
