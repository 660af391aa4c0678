"""Custom kinds in a recipe: validated like built-in kinds, and unknown to other calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from kdcli.custom_kinds import KEEP_UNKNOWN, CustomKinds, UnknownEntry, has_unknown_entry
from kdcli.errors import RecipeError
from kdcli.loss import Loss
from kdcli.recipe.reader import read_recipe, read_run_recipe
from kdcli.recipe.sections import Recipe
from kdcli.spec import Augment, Source


class Cauchy(Loss):
    needs_labels: ClassVar[bool] = False

    kind: Literal["cauchy"] = "cauchy"
    scale: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, **_):
        return 0.0


class Stripes(Source):
    kind: Literal["stripes"] = "stripes"
    examples: int = 10

    def load(self):
        return None


class Dim(Augment):
    kind: Literal["dim"] = "dim"

    def __call__(self, images, draws):
        return images


CUSTOM = CustomKinds(
    (("mine.py", Cauchy), ("data.py", Stripes), ("data.py", Dim)), (Path("a/mine.py"), Path("data.py"))
)
LOSSES = {"losses": [{"kind": "labels"}, {"kind": "cauchy", "scale": 2.0, "weight": 0.5}]}
DATA = {"data": {"source": {"kind": "stripes", "examples": 20}, "augment": [{"kind": "flip"}, {"kind": "dim"}]}}


def faults(recipe, custom=CUSTOM, **given):
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe, custom=custom, **given)
    assert caught.value.exit_code == 2
    return caught.value


def test_entries_become_objects_of_their_classes():
    recipe = read_recipe({**LOSSES, **DATA}, custom=CUSTOM).recipe
    assert recipe.losses[1] == Cauchy(scale=2.0, weight=0.5)
    assert (recipe.data.source, recipe.data.augment[1]) == (Stripes(examples=20), Dim())
    assert CUSTOM.files_of(recipe) == ("data.py", "mine.py")
    assert CUSTOM.files_of(read_recipe({}, custom=CUSTOM).recipe) == ()


def test_a_recipe_with_custom_kinds_is_dumped_and_read_back():
    recipe = read_recipe({**LOSSES, **DATA, "requires": ["mine.py"]}, custom=CUSTOM).recipe
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert values["losses"][1] == {"kind": "cauchy", "scale": 2.0, "weight": 0.5, "warmup": 0.0}
    assert values["data"]["source"] == {"kind": "stripes", "examples": 20}
    assert Recipe.model_validate(values, context=CUSTOM) == recipe
    assert read_recipe(recipe, custom=CUSTOM).recipe == recipe
    assert '"scale":2.0' in recipe.model_dump_json()


def test_the_source_of_a_split_can_be_of_a_custom_kind():
    source = {"train": {"kind": "stripes", "examples": 7}, "test": "digits"}
    assert read_recipe({"data": {"source": source}}, custom=CUSTOM).recipe.data.source.train == Stripes(examples=7)


def test_a_setting_can_change_a_custom_kind():
    recipe = read_recipe(LOSSES, settings=["losses.cauchy.scale=3"], custom=CUSTOM).recipe
    assert recipe.losses[1].scale == 3.0


def test_faults_of_custom_kinds_have_positions_and_suggestions(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "losses:\n  - kind: cauchy\n    scal: 4\n  - {kind: cauchi}\n  - {kind: cauchy, scale: -1, name: b}\n"
    )
    error = faults(path)
    assert error.message.splitlines() == [
        f"3 problems in {path}",
        f"  {path}:3:5  losses.0.scal: unknown key",
        "     3 |     scal: 4",
        "       |     ^^^^ did you mean 'scale'?",
        f"  {path}:4:12 losses.1.kind: unknown kind 'cauchi'",
        "     4 |   - {kind: cauchi}",
        "       |            ^^^^^^ did you mean 'cauchy'?",
        f"  {path}:5:27 losses.2.scale: must be > 0, got -1",
        "     5 |   - {kind: cauchy, scale: -1, name: b}",
        "       |                           ^^",
    ]
    assert error.hint == f"kd recipes check {path} --code a/mine.py --code data.py"


@pytest.mark.parametrize("kind", ["hint", "labels"])
def test_the_closest_of_all_kinds_is_suggested(kind):
    assert f"did you mean {kind!r}?" in faults({"losses": [{"kind": f"{kind}x"}]}).message


def test_a_custom_kind_belongs_to_one_family():
    assert "unknown kind 'dim'" in faults({"losses": [{"kind": "dim"}]}).message
    assert "unknown kind 'cauchy'" in faults({"data": {"source": {"kind": "cauchy"}}}).message


def test_custom_kinds_of_one_call_are_unknown_to_others():
    read_recipe(LOSSES, custom=CUSTOM)
    assert "unknown kind 'cauchy'" in faults(LOSSES, custom=CustomKinds()).message
    assert "cauchy" not in str(Recipe.model_json_schema())


def test_an_object_from_another_copy_of_the_file_is_accepted():
    class Copy(Loss):
        kind: Literal["cauchy"] = "cauchy"
        scale: float = 1.0

    for made in (Cauchy(scale=5.0), Copy(scale=5.0)):
        assert read_recipe({"losses": [made]}, custom=CUSTOM).recipe.losses == (Cauchy(scale=5.0),)


def test_a_missing_required_file_is_reported_with_the_other_faults(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("requires: [mine.py, data.py]\nlosses: [{kind: cauchy, scale: 2}, {kind: labels, weigt: 1}]\n")
    error = faults(path, custom=CustomKinds((), (Path("data.py"),)))
    assert [fault.setting for fault in error.faults] == ["requires.0", "losses.1.weigt"]
    assert f"{path}:1:12 requires.0: the recipe requires mine.py, which was not given" in " ".join(
        error.message.split()
    )
    assert error.hint == "--code mine.py"
    with pytest.raises(RecipeError):
        read_recipe({"requires": ["mine.py"]})
    assert read_recipe({"requires": ["mine.py"]}, custom=CUSTOM).recipe.requires == ("mine.py",)


@pytest.mark.parametrize("names", [["a/mine.py"], ["mine"], [r"a\mine.py"]])
def test_required_files_are_named_without_folders(names):
    assert "must be names of Python files without folders" in faults({"requires": names}).message


def test_the_recipe_of_a_run_is_read_without_its_code_files(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "requires: [mine.py]\nlosses: [{kind: cauchy, name: mine, scale: 2, weight: 0.5}]\n"
        "data: {source: {kind: stripes}, augment: [{kind: dim}]}\n"
    )
    run = read_run_recipe(path)
    assert isinstance(run.losses[0], UnknownEntry) and run.losses[0].label == "mine"
    assert has_unknown_entry(run.data.source) and not has_unknown_entry(run.train)
    values = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert values["losses"] == [{"kind": "cauchy", "name": "mine", "scale": 2, "weight": 0.5}]
    assert Recipe.model_validate(values, context=CUSTOM).losses[0].scale == 2.0
    assert "unknown key" in faults({"train": {"epoch": 1}}, custom=KEEP_UNKNOWN).message
