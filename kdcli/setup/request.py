"""The request of a command: the recipe with all options applied, and objects from Python."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

from kdcli.custom_kinds import NO_CUSTOM, CustomKinds
from kdcli.errors import UsageError
from kdcli.events import OnEvent, ignore_event
from kdcli.models.custom_code import find_kinds
from kdcli.recipe.gates import Gate
from kdcli.recipe.origins import Origins
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.recipe.shipped_recipes import DEFAULT_RECIPE
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.context import Context, never_stop
from kdcli.tensors import KerasModel

RecipeLike: TypeAlias = str | Path | Mapping[str, Any] | Recipe
# A path, a run directory, or a `keras.Model` from Python.
ModelLike: TypeAlias = str | Path | KerasModel
# A name, a path, (x, y), (x_train, y_train, x_test, y_test), a mapping of arrays or a `tf.data.Dataset`.
DataLike: TypeAlias = Any
# The values of `--split`.
SPLIT_OPTIONS = ("auto", "train", "validation", "test", "all")


class RecipeOptions(TypedDict, total=False):
    """Options of every command with a recipe.

    Args:
        settings: `path=value` strings, as for `--set`.
        data: a name, a path, (x, y), (x_train, y_train, x_test, y_test), a mapping of arrays, or a
            `tf.data.Dataset` of x or (x, y), which is read into memory once.
        batch_size: examples in a batch.
        signature: the signature of a SavedModel.
        output: the output of a model with several.
        trust: what model files may do: `kdcli.Trust(model=True)` is `--trust-model`.
        code: Python files that define custom layers or kinds.
        threads: number of threads TensorFlow uses; has an effect only before TensorFlow has started.
        on_event: receives notes and progress.
    """

    settings: Sequence[str]
    data: DataLike
    batch_size: int | None
    signature: str | None
    output: str | None
    trust: Trust
    code: Sequence[str | Path] | CustomKinds
    threads: int | None
    on_event: OnEvent


class RunOptions(RecipeOptions, total=False):
    """Further options of every command that trains.

    Args:
        out: the run directory; by default a new one in `runs/`.
        resume: start, continue or show the run in `out`.
        overwrite: delete the run in `out` first.
        limit: number of training examples (int), or a fraction of them (float); stratified.
        seed: RNG seed for weights, order, split and augmentation.
        epochs: number of passes over the training examples.
        devices: `auto` (all GPUs, else the CPU), `one` or `workers`.
        cache_limit: maximum bytes of the cache of teacher outputs; by default a fifth of the free disk space.
        dry_run: open everything, run one step in memory, return the plan and write nothing.
        preflight: refuse runs that cannot work, before training starts.
        stop: called between steps; a returned exit code (130, 143) stops the run after saving.
    """

    out: str | Path | None
    resume: bool
    overwrite: bool
    limit: float | None
    seed: int | None
    epochs: int | None
    devices: str | None
    cache_limit: int | None
    dry_run: bool
    preflight: bool
    stop: Callable[[], int | None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command should do, checked.

    Args:
        recipe: with all options applied.
        origins: where each setting comes from.
        name: the recipe's name.
        models: `keras.Model` objects by role; those of an ensemble are `teacher.0`, `teacher.1`, ...
        arrays: data given as Python objects, or None.
        recipe_given: whether the command named a recipe.
        trust: what model files may do.
        custom: the user's Python files, and the kinds they define.
        out: the run directory, or None for a new one in `runs/`.
        resume, overwrite: what to do with a run in `out`.
        preflight: whether runs that cannot work are refused before training starts.
        gates: bounds in addition to the recipe's.
        context: threads, stop function, listener, workers, and the memo.
    """

    recipe: Recipe
    origins: Origins
    name: str
    models: dict[str, KerasModel] = field(default_factory=dict)
    arrays: DataLike = None
    recipe_given: bool = True
    trust: Trust = NO_TRUST
    custom: CustomKinds = NO_CUSTOM
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    preflight: bool = True
    gates: tuple[str | Gate, ...] = ()
    context: Context = field(default_factory=Context)

    @property
    def stored_stages(self) -> Path | None:
        """The stored recipe of the chain of stages to resume; None if there is none."""
        from kdcli.runs.directory import RECIPE_FILE, STAGES_FOLDER

        stored = None if self.out is None or not self.resume else self.out / STAGES_FOLDER / RECIPE_FILE
        return stored if stored is not None and stored.is_file() else None

    @property
    def has_data(self) -> bool:
        """Whether the recipe, an option or an object from Python gives data."""
        return self.recipe.data.source is not None or self.arrays is not None

    @property
    def code(self) -> tuple[Path, ...]:
        """The user's Python files."""
        return self.custom.paths


def make_request(
    recipe: RecipeLike | None = None,
    *,
    role: str = "teacher",
    default: str | Mapping[str, Any] = DEFAULT_RECIPE,
    teacher: ModelLike | Sequence[ModelLike] | None = None,
    student: ModelLike | None = None,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RunOptions],
) -> Request:
    """Build a request: read the recipe and apply the options.

    Args:
        recipe: a shipped name, a path, a mapping or a `Recipe`; `default` when None.
        role: the section to which the options `signature` and `output` apply: `teacher`, or `student` for commands
            that name models.
        default: the recipe when `recipe` is None.
        teacher, student: a path, a run directory or a `keras.Model`; a list of teachers is an ensemble.
        gates: bounds in addition to the recipe's.
        options: those of `RecipeOptions` and `RunOptions`.

    Raises:
        UsageError: the recipe, a setting or an option is wrong.
        TypeError: an unknown option.
    """
    unknown = sorted(options.keys() - RunOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"unexpected option: {', '.join(unknown)}")
    code, data, out = options.get("code", ()), options.get("data"), options.get("out")
    custom = code if isinstance(code, CustomKinds) else find_kinds([Path(file) for file in code])
    teachers = list(teacher) if isinstance(teacher, list | tuple) else [] if teacher is None else [teacher]
    students = [] if student is None else [student]
    models, files = _sort_models({"teacher": teachers, "student": students})
    arrays = None if isinstance(data, str | Path) else data
    loaded = read_recipe(
        default if recipe is None else recipe,
        settings=options.get("settings", ()),
        options={**_list_named_settings(options, role), **files},
        custom=custom,
        teachers=len(teachers),
    )
    return Request(
        recipe=loaded.recipe,
        origins=loaded.origins,
        name="stdin" if loaded.source == "-" else Path(loaded.source).stem,
        models=models,
        arrays=arrays,
        recipe_given=recipe is not None,
        trust=options.get("trust", NO_TRUST),
        custom=custom,
        out=None if out is None else Path(out),
        resume=options.get("resume", False),
        overwrite=options.get("overwrite", False),
        preflight=options.get("preflight", True),
        gates=tuple(gates),
        context=make_context(options),
    )


def make_context(options: RunOptions) -> Context:
    """Build the context of a command from its options."""
    return Context(
        threads=options.get("threads"),
        stop=options.get("stop", never_stop),
        on_event=options.get("on_event", ignore_event),
        cache_limit=options.get("cache_limit"),
        dry_run=options.get("dry_run", False),
    )


def _list_named_settings(options: RunOptions, role: str) -> dict[str, tuple[str, Any]]:
    """The settings that options set: by path, the option's name and value."""
    data = options.get("data")
    named = {
        "data.source": ("--data", str(data) if isinstance(data, str | Path) else None),
        "data.limit": ("--limit", options.get("limit")),
        "train.batch_size": ("--batch-size", options.get("batch_size")),
        "train.seed": ("--seed", options.get("seed")),
        "train.epochs": ("--epochs", options.get("epochs")),
        "train.devices": ("--devices", options.get("devices")),
        f"{role}.signature": ("--signature", options.get("signature")),
        f"{role}.output": ("--output", options.get("output")),
    }
    return {setting: option for setting, option in named.items() if option[1] is not None}


def _sort_models(
    given: Mapping[str, Sequence[ModelLike]],
) -> tuple[dict[str, KerasModel], dict[str, tuple[str, Any]]]:
    """Separate models given as objects, by role, from those given as paths, as settings."""
    models: dict[str, KerasModel] = {}
    files: dict[str, tuple[str, Any]] = {}
    for role, members in given.items():
        for number, model in enumerate(members):
            name = role if len(members) == 1 else f"{role}.{number}"
            if isinstance(model, str | Path):
                files[f"{name}.model"] = (f"--{role}", {"kind": "file", "path": str(model)})
            else:
                models[name] = model
    return models, files


def require(request: Request, *sections: str) -> None:
    """Refuse a request without one of the named sections.

    Args:
        request: its recipe and its objects are checked.
        sections: of `data`, `teacher` and `student`.

    Raises:
        UsageError: naming the option.
    """
    recipe = request.recipe
    missing = {
        "data": not request.has_data,
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
                data = f"--data {shlex.quote(data)}"
                example += f"; kd shrink TEACHER {data} makes a student, kd inspect zoo:cnn {data} lists others"
            raise UsageError(
                f"no {section}: {setting} is not set by the recipe {request.name!r} or an option", hint=example
            )
