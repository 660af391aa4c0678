"""What a run is asked to do: recipe, named options and objects given in Python, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError
from kdcli.recipe.origins import Origins
from kdcli.recipe.reading import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.screening.verdict import NO_TRUST, Trust

# Named options and the settings that they stand for.
OPTIONS = {
    "teacher": "teacher.model",
    "student": "student.model",
    "data": "data.source",
    "limit": "data.limit",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
    "epochs": "train.epochs",
    "devices": "train.devices",
}
# Who a choice within a file is about: the teacher where one is named beside a student, else the models measured.
CHOICES = ("signature", "output")


@dataclass(frozen=True)
class Asked:
    """A checked recipe and what came beside it.

    Args:
        recipe: with every named option in it.
        origins: where each setting came from.
        name: what the recipe is called.
        models: `keras.Model`s given in Python, by role.
        arrays: data given in Python, or None.
        recipe_given: whether somebody named a recipe.
        trust: what files may do.
        code: files with the user's own layers.
    """

    recipe: Recipe
    origins: Origins
    name: str
    models: dict[str, Any] = field(default_factory=dict)
    arrays: Any = None
    recipe_given: bool = True
    trust: Trust = NO_TRUST
    code: tuple[Path, ...] = ()


def ask(
    recipe: Any = None,
    *,
    settings: Sequence[str] = (),
    default: str | Mapping[str, Any] = "soft-targets",
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] = (),
    role: str = "teacher",
    **options: Any,
) -> Asked:
    """Read the recipe with named options on top.

    Args:
        recipe: a name, path, mapping or `Recipe`; `default` when None.
        settings: `path=value` texts.
        trust: what files may do; never said by a recipe.
        code: files with the user's own layers.
        role: whose `signature` and `output` the options are: `teacher`, or `student` for models on their own.
        options: by the names in `OPTIONS` and `CHOICES`; None is not given. Models and arrays may be objects.

    Raises:
        UsageError: the recipe, a setting or an option is wrong.
    """
    models: dict[str, Any] = {}
    arrays = None
    given: dict[str, tuple[str, Any]] = {}
    for name, value in options.items():
        if value is None:
            continue
        if name in ("teacher", "student"):
            if not isinstance(value, str | Path):
                models[name] = value
                continue
            value = {"kind": "file", "path": str(value)}
        elif name == "data" and not isinstance(value, str | Path):
            arrays = value
            continue
        elif name == "data":
            value = str(value)
        setting = f"{role}.{name}" if name in CHOICES else OPTIONS[name]
        given[setting] = (f"--{name.replace('_', '-')}", value)
    read = read_recipe(default if recipe is None else recipe, settings=settings, options=given)
    files = tuple(Path(file) for file in code)
    for file in files:
        if not file.is_file():
            raise UsageError(f"--code {file}: no such file", hint="a Python file that registers own layers")
    return Asked(read.recipe, read.origins, _stem(read.source), models, arrays, recipe is not None, trust, files)


def require(asked: Asked, *sections: str) -> None:
    """Refuse what neither the recipe nor an option gives.

    Raises:
        UsageError: naming the option.
    """
    recipe = asked.recipe
    missing = {
        "data": recipe.data.source is None and asked.arrays is None,
        "teacher": recipe.teacher.model is None and "teacher" not in asked.models,
        "student": recipe.student.model is None and "student" not in asked.models,
    }
    for section in sections:
        if missing[section]:
            setting = {"data": "data.source"}.get(section, f"{section}.model")
            example = {"data": "--data digits"}.get(section, f"--{section} FILE.keras")
            raise UsageError(
                f"no {section}: neither the recipe {asked.name!r} nor an option gives {setting}", hint=example
            )


def _stem(source: str) -> str:
    return "stdin" if source == "-" else Path(source).stem
