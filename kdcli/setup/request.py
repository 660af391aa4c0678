"""What a command is asked to do: the recipe with every option in it, and objects from Python."""

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
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.context import Context, never_stop
from kdcli.tensors import KerasModel

RecipeLike: TypeAlias = str | Path | Mapping[str, Any] | Recipe
# A path, a run directory, or a `keras.Model` from Python.
ModelLike: TypeAlias = str | Path | KerasModel
# A name, a path, (x, y), (x_train, y_train, x_test, y_test) or a mapping of arrays.
DataLike: TypeAlias = Any
# The values of `--split`.
SPLIT_OPTIONS = ("auto", "train", "validation", "test", "all")
DEFAULT_RECIPE = "soft-targets"


class RecipeOptions(TypedDict, total=False):
    """What every command with a recipe takes.

    Args:
        settings: `path=value` texts, as for `--set`.
        data: a name, a path, (x, y), (x_train, y_train, x_test, y_test) or a mapping of arrays.
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
    """What every command that trains takes beside `RecipeOptions`.

    Args:
        out: the run directory; a new one below `runs/` when left out.
        resume: start, continue or show the run in `out`.
        overwrite: delete the run in `out` first.
        limit: number of training examples, or a fraction of them; stratified.
        seed: RNG seed of weights, order, split and augmentation.
        epochs: passes over the training examples.
        devices: `auto` (all GPUs, else the CPU), `one` or `workers`.
        cache_limit: bytes that the cache of teacher outputs may hold; a fifth of the free disk when left out.
        dry_run: open everything, run one step in memory, return the plan and write nothing.
        preflight: refuse what cannot work before training starts.
        stop: called between steps; an exit code (130, 143) stops after saving.
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


@dataclass(frozen=True)
class Request:
    """What a command is asked to do, checked.

    Args:
        recipe: with every option in it.
        origins: where each setting came from.
        name: the recipe's name.
        models: `keras.Model`s given in Python, by role; of several teachers as `teacher.0`, `teacher.1`, ...
        arrays: data given in Python, or None.
        recipe_given: whether a recipe was named.
        trust: what model files may do.
        custom: the user's own files, and the kinds that they define.
        out: the run directory, or None for a new one below `runs/`.
        resume, overwrite: what to do with a run in `out`.
        preflight: whether what cannot work is refused before training starts.
        gates: bounds given beside the recipe's.
        context: threads, stop, listener, workers, and what was made once.
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
        """The recipe with stages of the run that is continued, where it has stages."""
        from kdcli.runs.directory import RECIPE_FILE, STAGES_FOLDER

        stored = None if self.out is None or not self.resume else self.out / STAGES_FOLDER / RECIPE_FILE
        return stored if stored is not None and stored.is_file() else None

    @property
    def code(self) -> tuple[Path, ...]:
        """The user's own files."""
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
    """Read the recipe with the options on top.

    Args:
        recipe: a shipped name, a path, a mapping or a `Recipe`; `default` when None.
        role: whose `signature` and `output` the options are: `teacher`, or `student` for models that are named.
        default: the recipe when none is given.
        teacher, student: a path, a run directory or a `keras.Model`; a list of teachers is an ensemble.
        gates: bounds given beside the recipe's.
        options: those of `RecipeOptions` and `RunOptions`.

    Raises:
        UsageError: the recipe, a setting or an option is wrong.
        TypeError: an option of no such name.
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
        options={**_named_settings(options, role), **files},
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
    """What the parts of a command share, from its options."""
    return Context(
        options.get("threads"),
        options.get("stop", never_stop),
        options.get("on_event", ignore_event),
        cache_limit=options.get("cache_limit"),
        dry_run=options.get("dry_run", False),
    )


def _named_settings(options: RunOptions, role: str) -> dict[str, tuple[str, Any]]:
    """The settings that options stand for, each with the option's name."""
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
    """Models given as objects, by role, and the settings of those given as paths."""
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
