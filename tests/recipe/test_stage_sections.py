"""Stages of a recipe: settings of a stage replace those of the recipe."""

from __future__ import annotations

import pytest

from kdcli.errors import RecipeError
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.stage_sections import drop_settings, merge_sections
from kdcli.recipe.train_section import TrainSection

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


def test_a_stage_replaces_keys_and_entries_with_a_kind_as_a_whole():
    recipe = read_recipe(WRITTEN).recipe
    first = recipe.stages[0]
    train = merge_sections(recipe.train, first.train)
    assert (train.batch_size, train.steps, train.checkpoint.every, train.checkpoint.keep) == (32, 7, "5m", 1)
    assert merge_sections(recipe.train, drop_settings(first.train, frozenset({"steps", "checkpoint"}))).epochs == 5
    assert drop_settings(first.train, frozenset({"steps"})).model_fields_set == {"early_stopping", "checkpoint"}
    student = merge_sections(recipe.student, first.student)
    assert (student.model.name, student.model.width, student.start) == ("cnn", 32, "auto")
    assert merge_sections(recipe.train, None) == recipe.train == merge_sections(recipe.train, TrainSection())


def test_a_dumped_stage_contains_only_its_explicit_settings():
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


def test_settings_can_change_stages():
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


def test_faults_in_stages_and_teacher_lists_have_positions(tmp_path):
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
