"""Reading a recipe from text, `--set` and options: precedence, origins, faults."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kdcli.errors import RecipeError, UsageError
from kdcli.recipe.reader import read_recipe, read_shipped_recipe
from kdcli.recipe.shipped_recipes import list_shipped_recipes

TWO_LOSSES = {"losses": [{"kind": "labels", "weight": 0.25}, {"kind": "soft_targets", "weight": 0.5}]}


def write(folder: Path, text: str, name: str = "own.yaml") -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def refused(recipe, **given) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe, **given)
    assert caught.value.exit_code == 2
    return caught.value


def refused_text(monkeypatch, text: str) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return refused("-").message.splitlines()


def test_options_override_settings_and_settings_override_the_recipe():
    written = {"train": {"epochs": 3, "batch_size": 8, "seed": 5}}
    read = read_recipe(
        written,
        settings=["train.epochs=4", "train.batch_size=16"],
        options={"train.epochs": ("--epochs", 7)},
    )
    train = read.recipe.train
    assert (train.epochs, train.batch_size, train.seed) == (7, 16, 5)
    assert train.label_smoothing == 0.0
    assert written == {"train": {"epochs": 3, "batch_size": 8, "seed": 5}}


def test_the_last_of_two_settings_is_used():
    assert read_recipe({}, settings=["train.seed=1", "train.seed=2"]).recipe.train.seed == 2


def test_origins_name_the_option_the_setting_or_the_line(tmp_path):
    path = write(tmp_path, "data:\n  source: digits\ntrain:\n  seed: 3\n  batch_size: 8\n")
    origins = read_recipe(path, settings=["train.batch_size=9"], options={"train.epochs": ("--epochs", 2)}).origins
    assert origins.of(("train", "seed")) == f"{path}:4"
    assert origins.of(("train", "batch_size")) == "--set train.batch_size"
    assert origins.of(("train", "epochs")) == "--epochs"
    assert origins.of(("train", "jit")) == "default"
    assert origins.of(("data", "source")) == f"{path}:2"


@pytest.mark.parametrize(
    "words", ["losses.soft_targets.weight", "losses.1.weight", "losses[1].weight", "losses[soft_targets].weight"]
)
def test_a_loss_is_addressed_by_kind_number_or_bracket(words):
    losses = read_recipe(TWO_LOSSES, settings=[f"{words}=2"]).recipe.losses
    assert [loss.weight for loss in losses] == [0.25, 2.0]


def test_a_loss_is_addressed_by_its_name():
    hints = [{"kind": "hint", "name": "early"}, {"kind": "hint", "name": "late"}]
    losses = read_recipe({"losses": hints}, settings=["losses.late.distance=l1"]).recipe.losses
    assert [loss.distance for loss in losses] == ["l2", "l1"]


def test_the_value_of_a_setting_is_read_as_yaml():
    recipe = read_recipe(
        {}, settings=["data.augment=[{kind: shift, pixels: 3}]", "train.gradient_clip=1e-1", "description=on"]
    ).recipe
    assert recipe.data.augment[0].pixels == 3
    assert recipe.train.gradient_clip == 0.1
    assert recipe.description == "on"


def test_a_value_that_is_not_yaml_is_a_word():
    assert read_recipe({}, settings=["description=a: b: c = d"]).recipe.description == "a: b: c = d"


def test_a_setting_expands_a_short_form():
    recipe = read_recipe(
        {"train": {"optimizer": "adam"}},
        settings=["train.optimizer=sgd", "train.optimizer.momentum=0.9", "train.schedule=cosine"],
        options={"train.optimizer.learning_rate": ("--x", 0.2)},
    ).recipe
    optimizer = recipe.train.optimizer
    assert (optimizer.kind, optimizer.momentum, optimizer.learning_rate) == ("sgd", 0.9, 0.2)
    assert recipe.train.schedule.kind == "cosine"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs", "--set 'epochs' is not a setting; expected PATH=VALUE"),
        ("=3", "--set '=3' is not a setting; expected PATH=VALUE"),
        ("train.epoch=3", "--set train.epoch: unknown key (did you mean 'epochs'?)"),
        ("train.epochs=many", "--set train.epochs: must be a whole number, got 'many'"),
        ("losses.hint.weight=1", "--set losses.hint.weight: no entry 'hint'; there are 2: labels, soft_targets"),
        ("losses.2.weight=1", "--set losses.2.weight: no entry '2'; there are 2: labels, soft_targets"),
        ("losses.².weight=1", "--set losses.².weight: no entry '²'; there are 2: labels, soft_targets"),
        ("description=&a b", "--set description: anchors (&) are not allowed"),
    ],
)
def test_an_invalid_setting_is_reported_with_its_path(setting, words):
    assert refused(TWO_LOSSES, settings=[setting]).message == f"1 problem in recipe\n  {words}"


def test_a_kind_that_is_used_twice_needs_a_name():
    twice = {"losses": [{"kind": "hint"}, {"kind": "hint"}]}
    assert "two losses are named 'hint': give one of them another `name:`" in refused(twice).message
    assert (
        "'hint' is used twice; give each entry a name" in refused(twice, settings=["losses.hint.weight=1"]).message
    )
    assert len(read_recipe({"losses": [{"kind": "hint"}, {"kind": "hint", "name": "b"}]}).recipe.losses) == 2


def test_a_newer_version_is_refused_with_both_versions(monkeypatch):
    lines = refused_text(monkeypatch, "data: {source: digits}\nversion: 2\nunheard_of: 1\n")
    assert lines[0] == "1 problem in -"
    assert lines[1].endswith("version: recipe version 2 is newer than version 1, the newest that this kd reads")
    assert lines[1].startswith("  -:2:1")


def test_a_missing_file_with_a_shipped_name_hints_at_the_shipped_recipe(tmp_path):
    name = list_shipped_recipes()[-1]
    with pytest.raises(UsageError, match=r"no such recipe file$") as caught:
        read_recipe(tmp_path / f"{name}.yaml")
    assert caught.value.hint == f"--recipe {name} uses the shipped recipe; kd recipes cp {name} copies it here"
    with pytest.raises(UsageError) as caught:
        read_recipe("./unheard-of.yaml")
    assert caught.value.hint == "kd recipes ls"


def test_an_unknown_shipped_name_suggests_the_closest():
    with pytest.raises(UsageError, match="unknown recipe 'soft-target'; did you mean 'soft-targets'") as caught:
        read_shipped_recipe("soft-target")
    assert caught.value.hint == "kd recipes ls, or a path that contains / or ends in .yaml"


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(UsageError, match=r"not UTF-8 text \(byte 3\)"):
        read_recipe(path)
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_recipe(tmp_path)


def test_standard_input_mapping_and_recipe_object_give_the_same_recipe(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("train: {epochs: 3}\nlosses: [{kind: labels, weight: 2}]\n"))
    from_text = read_recipe("-").recipe
    from_mapping = read_recipe({"train": {"epochs": 3}, "losses": [{"kind": "labels", "weight": 2}]}).recipe
    again = read_recipe(from_text, settings=["train.seed=1"]).recipe
    assert from_text == from_mapping == read_recipe(from_text).recipe
    assert (again.train.epochs, again.train.seed, from_text.train.seed) == (3, 1, 0)


def test_the_default_is_soft_targets():
    assert read_recipe().source == "soft-targets"
    assert "soft_targets" in [loss.kind for loss in read_recipe().recipe.losses]
