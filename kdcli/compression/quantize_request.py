"""What `kd quantize` should do: the recipe of the training, from a run or from options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent, ignore_event
from kdcli.losses.soft_targets import SoftTargets
from kdcli.models.files.format import SAVED_MODEL, detect_format, resolve_model_file
from kdcli.recipe.gates import Gate, GatesSection
from kdcli.recipe.model_sections import ModelSection, StudentSection, TeacherSection
from kdcli.recipe.reader import read_run_recipe
from kdcli.recipe.schedule import Cosine
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.screening.verdict import NO_TRUST
from kdcli.setup.request import RecipeLike, Request, RunOptions, make_request, require
from kdcli.zoo import File

QUANTIZE = "quantize"
# The learning rate relative to that of the training before.
RATE = 0.1
# Settings of a section that apply to the same model in another role.
_COMMON = ("input", "output", "output_kind", "signature")


def make_quantize_request(
    model: Path,
    *,
    teacher: str | Path | None = None,
    recipe: RecipeLike | None = None,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RunOptions],
) -> Request:
    """Build the request of a quantization-aware training.

    Args:
        model: a Keras file or a run; a run brings its data, preprocessing, teacher and optimizer.
        teacher: the path of a teacher besides the model itself; by default the run's teacher.
        recipe: for data, preprocessing and optimizer, instead of those of the run.
        gates: bounds on the file.
        options: of the training.

    Raises:
        ModelError: the model is missing.
        UsageError: the model has no layer to quantize, the data is missing, or an option is invalid.
    """
    file = resolve_model_file(model, trust=options.get("trust", NO_TRUST))
    if detect_format(file) == SAVED_MODEL:
        raise UsageError(
            f"{model}: a SavedModel does not list its layers, so it cannot be quantized by training",
            hint="use the .keras file it was made from",
        )
    run_recipe = find_run_recipe(model)
    if recipe is not None or run_recipe is None:
        base = make_request(recipe if recipe is not None else {}).recipe
    else:
        base = read_run_recipe(run_recipe)
    section: ModelSection = base.student
    if run_recipe is not None:
        section = getattr(read_run_recipe(run_recipe), find_run_role(model))
    further: list[TeacherSection] = []
    if teacher is not None:
        further = [TeacherSection(model=File(path=str(teacher)))]
    elif run_recipe is not None and find_run_role(model) == "student":
        further = [one for one in base.teachers if isinstance(one.model, File) and Path(one.model.path).exists()]
        _announce_missing(base, further, options.get("on_event", ignore_event))
    made = make_quantize_recipe(base, model, section, further, gates=base.gates if recipe is not None else None)
    request = make_request(made, role="student", gates=gates, **options)
    require(request, "data")
    _check(request)
    return replace(request, recipe=_copy_student_settings(request.recipe))


def _announce_missing(base: Recipe, found: Sequence[TeacherSection], on_event: OnEvent) -> None:
    """Say which teachers of the run are left out: those that are not files, or whose files are gone."""
    missing = [one for one in base.teachers if one.model is not None and one not in found]
    for one in missing:
        name = getattr(one.model, "path", one.model)
        on_event(Note(f"a teacher of the run is left out: {name} is not an existing file"))


def _check(request: Request) -> None:
    train = request.recipe.train
    if train.quantize is None:
        raise UsageError("train.quantize=null: kd quantize trains for int8", hint="leave out --set train.quantize")
    if train.devices == "workers":
        raise UsageError("train.devices=workers: kd quantize does not support it", hint="--devices auto")


def _copy_student_settings(recipe: Recipe) -> Recipe:
    """The recipe in which the model has the same settings as a teacher and as the student."""
    common = {name: getattr(recipe.student, name) for name in _COMMON}
    first, *further = recipe.teachers
    teachers = (first.model_copy(update=common), *further)
    return recipe.with_teachers(*teachers, ensemble=recipe.is_ensemble)


def make_quantize_recipe(
    base: Recipe,
    model: Path,
    section: ModelSection,
    further: Sequence[TeacherSection],
    *,
    gates: GatesSection | None = None,
) -> Recipe:
    """The recipe of a quantization-aware training: the model learns from its own float32 outputs.

    Args:
        base: of the training before: data, optimizer, batch size, seed.
        model: the trained student: a file or a run.
        section: the settings with which it is opened.
        further: teachers besides the model itself; probabilities are mixed with equal weights.
        gates: bounds on the file; None without any.
    """
    common = {name: getattr(section, name) for name in _COMMON}
    file = File(path=str(model))
    optimizer = base.train.optimizer
    rate = optimizer.model_copy(update={"learning_rate": optimizer.learning_rate * RATE})
    train: dict[str, Any] = {
        "quantize": "int8",
        "precision": "float32",
        "epochs": None,
        "steps": None,
        "early_stopping": None,
    }
    teachers = (TeacherSection(model=file, **common), *(_without_weight(one) for one in further))
    recipe = base.model_copy(
        update={
            "description": "",
            "data": base.data.model_copy(update={"augment": ()}),
            "student": StudentSection(model=file, start="file", **common),
            "losses": (SoftTargets(temperature=1.0, weight=1.0),),
            "train": base.train.model_copy(update={**train, "optimizer": rate, "schedule": Cosine()}),
            "gates": gates or GatesSection(),
            "stages": (),
            "ensemble": None,
        }
    )
    return recipe.with_teachers(*teachers, ensemble=len(teachers) > 1)


def _without_weight(section: TeacherSection) -> TeacherSection:
    """A teacher as a member with the same weight as the model, with one view of each example."""
    return section.model_copy(update={"weight": None, "temperature": None, "views": "auto"})
