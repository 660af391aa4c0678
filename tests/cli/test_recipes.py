"""kd recipes: ls, show, cp, check, schema."""

from __future__ import annotations

import io
import json

import pytest
import yaml

from kdcli.recipe.shipped_recipes import list_shipped_recipes, read_shipped_text

NAMES = list_shipped_recipes()
FAULTY = "data: {source: digits}\nlosses:\n  - {kind: labels, wait: 1}\ntrain:\n  epochs: -1\n"


def test_ls_lists_every_recipe_with_its_description(kd):
    ran = kd("recipes", "ls")
    assert (ran.code, ran.err) == (0, "")
    found = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert found == {name: yaml.safe_load(read_shipped_text(name))["description"] for name in NAMES}


def test_ls_as_json(kd):
    document = kd("recipes", "ls", "--json").document
    assert document["schema"] == "kd.recipes/1"
    assert [entry["name"] for entry in document["recipes"]] == NAMES
    assert all(set(entry) == {"name", "description"} for entry in document["recipes"])


@pytest.mark.parametrize("name", NAMES)
def test_show_prints_the_text_unchanged(kd, name):
    ran = kd("recipes", "show", name)
    assert (ran.code, ran.out, ran.err) == (0, read_shipped_text(name), "")


@pytest.mark.parametrize("command", ["show", "cp", "check"])
def test_an_unknown_name_suggests_the_closest(kd, command, tmp_path):
    ran = kd("recipes", command, "soft-target")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: unknown recipe 'soft-target'; did you mean 'soft-targets'?")
    assert "hint: kd recipes ls" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_cp_writes_the_recipe_and_prints_the_next_command(kd, tmp_path):
    ran = kd("recipes", "cp", "digits")
    assert (ran.code, ran.out) == (0, "digits.yaml\n")
    assert ran.err == "next: kd recipes check digits.yaml\n"
    assert (tmp_path / "digits.yaml").read_text("utf-8") == read_shipped_text("digits")
    assert kd("recipes", "check", "digits.yaml").code == 0


def test_cp_accepts_a_file_or_a_folder(kd, tmp_path):
    (tmp_path / "folder").mkdir()
    assert kd("recipes", "cp", "digits", "folder").out == "folder/digits.yaml\n"
    assert kd("recipes", "cp", "digits", "own.yaml").out == "own.yaml\n"
    assert (tmp_path / "folder/digits.yaml").read_text("utf-8") == read_shipped_text("digits")
    assert (tmp_path / "own.yaml").read_text("utf-8") == read_shipped_text("digits")


def test_cp_overwrites_a_file_only_with_overwrite(kd, tmp_path):
    (tmp_path / "digits.yaml").write_text("mine\n")
    ran = kd("recipes", "cp", "digits")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "error: digits.yaml already exists\nhint: choose another DEST, or use --overwrite\n"
    assert (tmp_path / "digits.yaml").read_text() == "mine\n"
    assert kd("recipes", "cp", "digits", "--overwrite").code == 0
    assert (tmp_path / "digits.yaml").read_text("utf-8") == read_shipped_text("digits")


def test_cp_into_a_missing_folder_is_a_storage_error(kd):
    ran = kd("recipes", "cp", "digits", "nowhere/own.yaml")
    assert ran.code == 5
    assert ran.err.startswith("error: nowhere/own.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_check_accepts_every_shipped_recipe(kd, name):
    ran = kd("recipes", "check", name)
    assert (ran.code, ran.out, ran.err) == (0, f"{name}: no problems found\n", "")


def test_check_as_json_contains_the_values_with_defaults(kd):
    document = kd("recipes", "check", "digits", "--json", "--set", "train.epochs=3").document
    assert (document["schema"], document["recipe"], document["faults"]) == ("kd.recipe-check/1", "digits", [])
    assert document["values"]["train"]["epochs"] == 3
    assert document["values"]["train"]["checkpoint"] == {"every": "2m", "keep": 2}


@pytest.mark.parametrize("word", ["own.yaml", "./own.yaml"])
def test_check_reports_every_fault_with_its_position(kd, tmp_path, word):
    (tmp_path / "own.yaml").write_text(FAULTY)
    ran = kd("recipes", "check", word)
    assert (ran.code, ran.out) == (2, "")
    lines = ran.err.splitlines()
    assert lines[0].startswith("error: 2 problems in ")
    places = [line.split()[0] for line in lines if "own.yaml:" in line]
    assert [place.removeprefix("./") for place in places] == ["own.yaml:3:20", "own.yaml:5:11"]
    assert "^^^^" in ran.err


def test_check_as_json_contains_the_error_with_its_location(kd, tmp_path):
    (tmp_path / "own.yaml").write_text(FAULTY)
    ran = kd("recipes", "check", "./own.yaml", "--json")
    error = ran.document["error"]
    assert ran.document["schema"] == "kd.error/1"
    assert (ran.code, error["exit_code"], error["kind"]) == (2, 2, "recipe")
    assert error["location"] == "./own.yaml:3:20"
    assert error["message"].startswith("2 problems in ./own.yaml\n")


def test_check_reads_a_file_without_suffix_and_standard_input(kd, tmp_path, monkeypatch):
    (tmp_path / "own").write_text("train: {epochs: 2}\n")
    assert kd("recipes", "check", "own").out == "own: no problems found\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("train: {epochs: 0}\n"))
    ran = kd("recipes", "check", "-")
    assert ran.code == 2
    assert "-:1:17" in ran.err and "train.epochs: must be >= 1, got 0" in ran.err
    assert "hint" not in ran.err


def test_check_of_a_missing_file_names_the_shipped_recipe(kd):
    ran = kd("recipes", "check", "digits.yaml")
    assert ran.code == 2
    assert ran.err.splitlines() == [
        "error: digits.yaml: no such recipe file",
        "hint: kd recipes check digits checks the shipped one; kd recipes cp digits copies it here",
    ]


def test_markup_in_a_recipe_is_printed_unchanged(kd, tmp_path):
    (tmp_path / "own.yaml").write_text("train: {epochs: '[red]x[/]'}\n")
    assert "got '[red]x[/]'" in kd("recipes", "check", "own.yaml").err


def test_the_schema_contains_every_section(kd):
    ran = kd("recipes", "schema")
    schema = json.loads(ran.out)
    assert (ran.code, ran.err) == (0, "")
    assert {"version", "description", "data", "teacher", "student", "losses", "train"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    # What is written `from` in a recipe is called so in the schema.
    assert {"from", "to", "over", "shape"} == set(schema["$defs"]["Change"]["properties"])
