"""What a run is asked to do: recipe, named options and objects given in Python, in one place."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcli.custom_kinds import NO_OWN, OwnKinds, as_written_in
from kdcli.data.dataset import Dataset, open_dataset
from kdcli.data.examples import Examples
from kdcli.data.order import limited
from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent
from kdcli.models.custom_code import blamed, find_kinds
from kdcli.recipe.origins import Origins
from kdcli.recipe.reader import read_recipe, read_run
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import recipe_of_run
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
CHOICES = ("signature", "output")


@dataclass(frozen=True)
class Asked:
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
    own: OwnKinds = NO_OWN

    @property
    def code(self) -> tuple[Path, ...]:
        """The user's own files."""
        return self.own.paths


def ask(
    recipe: Any = None,
    *,
    settings: Sequence[str] = (),
    default: str | Mapping[str, Any] = "soft-targets",
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] | OwnKinds = (),
    role: str = "teacher",
    **options: Any,
) -> Asked:
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
    own = code if isinstance(code, OwnKinds) else find_kinds([Path(file) for file in code])
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
        setting = f"{role}.{name}" if name in CHOICES else OPTIONS[name]
        given[setting] = (f"--{name.replace('_', '-')}", value)
    read = read_recipe(
        default if recipe is None else recipe, settings=settings, options=given, own=own, teachers=teachers
    )
    return Asked(read.recipe, read.origins, _stem(read.source), models, arrays, recipe is not None, trust, own)


def require(asked: Asked, *sections: str) -> None:
    """Refuse what neither the recipe nor an option gives.

    Raises:
        UsageError: naming the option.
    """
    recipe = asked.recipe
    missing = {
        "data": recipe.data.source is None and asked.arrays is None,
        "teacher": any(
            section.model is None and not {"teacher", f"teacher.{number}"} & asked.models.keys()
            for number, section in enumerate(recipe.teachers)
        ),
        "student": recipe.student.model is None and "student" not in asked.models,
    }
    for section in sections:
        if missing[section]:
            setting = {"data": "data.source"}.get(section, f"{section}.model")
            example = {"data": "--data digits"}.get(section, f"--{section} FILE.keras")
            if section == "student":
                source = asked.origins.document.values.get("data", {}).get("source")
                data = source if isinstance(source, str) else "D"
                example += f"; kd inspect zoo:cnn --data {shlex.quote(data)} lists small students to choose from"
            raise UsageError(
                f"no {section}: neither the recipe {asked.name!r} nor an option gives {setting}", hint=example
            )


def _stem(source: str) -> str:
    return "stdin" if source == "-" else Path(source).stem


def asked_for(models: Sequence[str | Path], recipe: Any, *, with_data: bool = True, **options: Any) -> Asked:
    """The recipe given, else the data of the first run among the models, else the defaults.

    Args:
        models: files and runs.
        recipe: as for `asking.ask`, or None.
        with_data: whether examples will be read.
        options: as for `asking.ask`.

    Raises:
        UsageError: the recipe, a setting or an option is wrong, or runs have different data.
    """
    if recipe is None:
        recipe = {}
        runs = {str(model): found for model in models if (found := recipe_of_run(Path(model)))}
        own = next(iter(runs.values()), None)
        if own is not None and options.get("data") is None:
            _refuse_several_sources(runs)
        if own is not None:
            # Its data and split only: how its networks take their input is theirs alone.
            recipe = _data_of(read_run(own), with_source=with_data and options.get("data") is None)
    return ask(recipe, role="student", **options)


def _data_of(run: Recipe, *, with_source: bool) -> dict[str, Any]:
    values = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    # What is not used here is left out: one of the user's own would ask for its file.
    unused = ("augment",) if with_source else ("augment", "source", "target_scale")
    data = {name: value for name, value in values["data"].items() if name not in unused}
    found: dict[str, Any] = {"data": data, "train": {"seed": values["train"]["seed"]}}
    if with_source and as_written_in(run.data.source):
        found["requires"] = values["requires"]
    return found


def _refuse_several_sources(runs: Mapping[str, Path]) -> None:
    """Refuse runs that were trained on different data, when nobody says which to take."""
    sources = {name: read_run(path).data.source for name, path in runs.items()}
    first, *others = sources
    for name in others:
        if sources[name] != sources[first]:
            raise UsageError(
                f"{first} and {name} were trained on different data", hint="--data D says which to take"
            )


def check_counts(*, limit: float | None, batch_size: int | None) -> None:
    """Refuse a limit or a batch that holds nothing.

    Raises:
        UsageError: naming the option.
    """
    if limit is not None and not (limit >= 1 if isinstance(limit, int) else 0 < limit <= 1):
        raise UsageError(
            f"--limit must be a count of at least 1, or a share above 0 and up to 1.0, got {limit}",
            hint="--limit 500, or --limit 0.1",
        )
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}", hint="--batch-size 64")


def require_data(asked: Asked) -> None:
    """Refuse to go on without data.

    Raises:
        UsageError: naming the option.
    """
    if asked.recipe.data.source is None and asked.arrays is None:
        raise UsageError(
            "no data: neither the recipe, a run nor an option gives data.source", hint="--data digits"
        )


def open_given(asked: Asked, *, carve: bool, on_event: OnEvent) -> Dataset:
    """The data for models that are named; what the source has to say is said.

    Args:
        asked: from `asked_for`.
        carve: split validation off the training part and apply the recipe's limit, as training did.
        on_event: told the notes.

    Raises:
        DataError: anything that cannot be right.
    """
    recipe = asked.recipe
    with blamed(asked.code):
        dataset = open_dataset(
            recipe.data, seed=recipe.data_seed, arrays=asked.arrays, carve=carve, outputs=recipe.outputs
        )
    for text in dataset.notes:
        on_event(Note(text))
    return dataset


def given_examples(
    asked: Asked, *, split: str, limit: float | None, on_event: OnEvent
) -> tuple[Dataset, Examples]:
    """The examples that models are measured on, and the data that they are from; which and how many is said.

    Args:
        asked: from `asked_for`.
        split: `auto`, `train`, `validation`, `test` or `all`.
        limit: how many of the split: a count, or a share written with a point; stratified.
        on_event: told.

    Raises:
        DataError: anything that cannot be right, or no such split.
    """
    # The recipe's own limit is of its training part; the one given here is of what is measured.
    dataset = open_given(asked, carve=split in ("train", "validation"), on_event=on_event)
    return dataset, taken_from(dataset, asked, split=split, limit=limit, on_event=on_event)


def taken_from(dataset: Dataset, asked: Asked, *, split: str, limit: float | None, on_event: OnEvent) -> Examples:
    """A split of data that is open, or the part of it that a limit leaves; which and how many is said.

    Raises:
        DataError: the data has no such split.
    """
    examples = dataset.split(split)
    if limit is not None:
        seed = asked.recipe.data_seed
        examples = examples.subset(limited(examples.all_labels(), len(examples), limit=limit, seed=seed))
    on_event(Note(f"{dataset.name}: {len(examples)} examples of the {examples.split} split"))
    return examples
