"""What a run is asked to do: recipe, named options and objects given in Python, in one place."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcli.custom_kinds import NO_CUSTOM, CustomKinds
from kdcli.errors import UsageError
from kdcli.models.custom_code import find_kinds
from kdcli.recipe.origins import Origins
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.screening.verdict import NO_TRUST, Trust

# Named options and the settings that they stand for.
OPTIONS = {
    "data": "data.source",
    "limit": "data.limit",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
    "epochs": "train.epochs",
    "devices": "train.devices",
}
# Who a choice within a file is about: the teacher where one is named beside a student, else the models measured.
MODEL_CHOICES = ("signature", "output")


@dataclass(frozen=True)
class Request:
    """A checked recipe and what came beside it.

    Args:
        recipe: with every named option in it.
        origins: where each setting came from.
        name: what the recipe is called.
        models: `keras.Model`s given in Python, by role; of several teachers as `teacher.0`, `teacher.1`, ...
        arrays: data given in Python, or None.
        recipe_given: whether somebody named a recipe.
        trust: what files may do.
        own: the user's own files, and the kinds that they define.
    """

    recipe: Recipe
    origins: Origins
    name: str
    models: dict[str, Any] = field(default_factory=dict)
    arrays: Any = None
    recipe_given: bool = True
    trust: Trust = NO_TRUST
    custom: CustomKinds = NO_CUSTOM

    @property
    def code(self) -> tuple[Path, ...]:
        """The user's own files."""
        return self.custom.paths


def make_request(
    recipe: Any = None,
    *,
    settings: Sequence[str] = (),
    default: str | Mapping[str, Any] = "soft-targets",
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] | CustomKinds = (),
    role: str = "teacher",
    **options: Any,
) -> Request:
    """Read the recipe with named options on top.

    Args:
        recipe: a name, path, mapping or `Recipe`; `default` when None.
        settings: `path=value` texts.
        trust: what files may do; never said by a recipe.
        code: files with the user's own layers and kinds, or what they have been found to define.
        role: whose `signature` and `output` the options are: `teacher`, or `student` for models on their own.
        options: `teacher`, `student`, and by the names in `OPTIONS` and `CHOICES`; None is not given. Models and
            arrays may be objects, and `teacher` a list of several.

    Raises:
        UsageError: the recipe, a setting or an option is wrong.
    """
    own = code if isinstance(code, CustomKinds) else find_kinds([Path(file) for file in code])
    models: dict[str, Any] = {}
    arrays = None
    given: dict[str, tuple[str, Any]] = {}
    teachers = 0
    for name, value in options.items():
        if value is None or (name == "teacher" and isinstance(value, list | tuple) and not value):
            continue
        if name in ("teacher", "student"):
            several = list(value) if isinstance(value, list | tuple) else [value]
            for number, one in enumerate(several):
                place = name if len(several) == 1 else f"{name}.{number}"
                if not isinstance(one, str | Path):
                    models[place] = one
                else:
                    given[f"{place}.model"] = (f"--{name}", {"kind": "file", "path": str(one)})
            teachers = len(several) if name == "teacher" else teachers
            continue
        elif name == "data" and not isinstance(value, str | Path):
            arrays = value
            continue
        elif name == "data":
            value = str(value)
        setting = f"{role}.{name}" if name in MODEL_CHOICES else OPTIONS[name]
        given[setting] = (f"--{name.replace('_', '-')}", value)
    read = read_recipe(
        default if recipe is None else recipe, settings=settings, options=given, custom=own, teachers=teachers
    )
    return Request(read.recipe, read.origins, _stem(read.source), models, arrays, recipe is not None, trust, own)


def require(request: Request, *sections: str) -> None:
    """Refuse what neither the recipe nor an option gives.

    Raises:
        UsageError: naming the option.
    """
    recipe = request.recipe
    missing = {
        "data": recipe.data.source is None and request.arrays is None,
        "teacher": any(
            section.model is None and not {"teacher", f"teacher.{number}"} & request.models.keys()
            for number, section in enumerate(recipe.teachers)
        ),
        "student": recipe.student.model is None and "student" not in request.models,
    }
    for section in sections:
        if missing[section]:
            setting = {"data": "data.source"}.get(section, f"{section}.model")
            example = {"data": "--data digits"}.get(section, f"--{section} FILE.keras")
            if section == "student":
                source = request.origins.document.values.get("data", {}).get("source")
                data = source if isinstance(source, str) else "D"
                example += f"; kd inspect zoo:cnn --data {shlex.quote(data)} lists small students to choose from"
            raise UsageError(
                f"no {section}: neither the recipe {request.name!r} nor an option gives {setting}", hint=example
            )


def _stem(source: str) -> str:
    return "stdin" if source == "-" else Path(source).stem


SPLIT_OPTIONS = ("auto", "train", "validation", "test", "all")
