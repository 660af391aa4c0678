"""Stages: what is asked of each of several distillations, and where each goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError
from kdcli.models.files.format import resolve_model_file
from kdcli.recipe.document import SettingPath
from kdcli.recipe.gates import GatesSection
from kdcli.recipe.model_sections import TeacherSection
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.recipe.stages import StageSection, drop_settings, merge_sections
from kdcli.recipe.training import TrainSection
from kdcli.runs.directory import STAGES_FOLDER
from kdcli.setup.request import Request, require
from kdcli.zoo import File

# One setting in two units.
LENGTH = frozenset({"epochs", "steps"})


@dataclass(frozen=True)
class Stage:
    """One of several distillations.

    Args:
        number: from 1.
        count: how many there are.
        path: of its run.
        asked: what to do, as a distillation of its own.
    """

    number: int
    count: int
    path: Path
    request: Request

    @property
    def is_last(self) -> bool:
        """Whether its student is the one that is wanted."""
        return self.number == self.count


def stages_of(request: Request, path: Path) -> tuple[Stage, ...]:
    """The distillations of a recipe with stages, each taught by the student before it.

    Args:
        asked: what to do, stages and all.
        path: of the whole: the run of the last stage; the others lie in `stages/1`, `stages/2`, ... below it.
    """
    request, count = resolve_stages(request), len(request.recipe.stages)
    paths = [path / STAGES_FOLDER / str(number) for number in range(1, count)] + [path]
    return tuple(
        Stage(number, count, paths[number - 1], _asked_of(request, number, paths))
        for number in range(1, count + 1)
    )


def resolve_stages(request: Request) -> Request:
    """What is asked, its stages without the keys that somebody gave for this run: so the recipe tells all of it.

    What is given (`--epochs`, `--set train...`) holds in all stages; `--student` in the last one.
    """
    train, student = _given(request, "train"), _given(request, "student")
    train |= LENGTH if train & LENGTH else frozenset()
    stages = request.recipe.stages
    left = tuple(
        _without(stage, train, student if number == len(stages) else frozenset())
        for number, stage in enumerate(stages, 1)
    )
    return replace(request, recipe=request.recipe.model_copy(update={"stages": left}))


def _without(stage: StageSection, train: frozenset[str], student: frozenset[str]) -> StageSection:
    update: dict[str, Any] = {}
    if stage.train is not None:
        update["train"] = drop_settings(stage.train, train)
    if stage.student is not None:
        update["student"] = drop_settings(stage.student, student)
    return stage.model_copy(update=update)


def last_stage(request: Request) -> Request:
    """What is asked of the last stage, whose student is wanted; of a recipe without stages all of it."""
    return stages_of(request, Path())[-1].request if request.recipe.stages else request


def check_stages(stages: tuple[Stage, ...]) -> None:
    """Refuse, before the first stage is trained, what a later one lacks.

    Raises:
        UsageError: no student, no losses, or an object that would be trained twice.
        ModelError: a student's file that is not there.
    """
    for stage in stages:
        request = stage.request
        require(request, "data", "student", *([] if stage.number > 1 else ["teacher"]))
        if request.recipe.losses is None:
            raise UsageError(f"stage {stage.number} has no losses", hint="losses of the recipe, or of each stage")
        if "student" not in request.models and isinstance(request.recipe.student.model, File):
            resolve_model_file(Path(request.recipe.student.model.path), trust=request.trust)
    if sum("student" in stage.request.models for stage in stages) > 1:
        raise UsageError(
            "a model object is trained in place: it cannot be the student of several stages",
            hint="a `student` in each stage before the last one, or the model as a file",
        )


def _asked_of(request: Request, number: int, paths: list[Path]) -> Request:
    """What is asked of one stage."""
    recipe, own = request.recipe, request.recipe.stages[number - 1]
    last = number == len(paths)
    models = {
        role: model for role, model in request.models.items() if number == 1 or not role.startswith("teacher")
    }
    if own.student is not None and own.student.model is not None and not last:
        models.pop("student", None)
    update: dict[str, Any] = {
        "stages": (),
        "description": own.description or recipe.description,
        "student": merge_sections(recipe.student, own.student),
        "losses": own.losses or recipe.losses,
        "train": _train(recipe, own),
        "gates": recipe.gates if last else GatesSection(),
    }
    if number > 1:
        # What was said of the teacher's answers holds for the assistants'; how a model is read, its run knows.
        first = recipe.teacher
        settings = {name: getattr(first, name) for name in ("precision", "targets", "views")}
        assistant = TeacherSection(model=File(path=str(paths[number - 2])), **settings)
        update |= {"taught_by": assistant, "ensemble": None}
    origins = _origins_of(request.origins, number - 1)
    if number > 1:
        # A chain that goes on may lie elsewhere now, and its assistants with it.
        origins.overrides["teacher", "model"] = f"stage {number - 1}"
    return replace(
        request,
        recipe=recipe.model_copy(update=update),
        origins=origins,
        models=models,
        out=paths[number - 1],
        resume=True,
        overwrite=False,
    )


def _train(recipe: Recipe, own: StageSection) -> TrainSection:
    train = merge_sections(recipe.train, own.train)
    said = own.train.model_fields_set & LENGTH if own.train is not None else frozenset()
    # The stage's length replaces the recipe's, also where that is in the other unit.
    return train.model_copy(update=dict.fromkeys(LENGTH - said)) if said else train


def _given(request: Request, section: str) -> frozenset[str]:
    """The keys of a section that somebody gave for this run, all of them where it was given as a whole."""
    found: set[str] = set()
    for path in request.origins.overrides:
        if path == (section,):
            found |= set(type(getattr(request.recipe, section)).model_fields)
        elif path[0] == section:
            found.add(str(path[1]))
    return frozenset(found)


def _origins_of(origins: Origins, number: int) -> Origins:
    """Where the settings of one stage came from: its own entry, else the recipe around it."""
    at: SettingPath = (STAGES_FOLDER, number)

    def own(places: Mapping[SettingPath, Any]) -> dict[SettingPath, Any]:
        inner = {path[2:]: location for path, location in places.items() if path[:2] == at and len(path) > 2}
        context = {path: location for path, location in places.items() if path[:1] != (STAGES_FOLDER,)}
        return {**context, **inner}

    document = replace(
        origins.document,
        key_positions=own(origins.document.key_positions),
        value_positions=own(origins.document.value_positions),
    )
    return Origins(document, own(origins.overrides), own(origins.implied_defaults), list(origins.notes))


def describe_stages(stages: tuple[Stage, ...], recipe: Recipe, *, finished: int) -> tuple[dict[str, Any], ...]:
    """The stages as a plan lists them.

    Args:
        stages: all of them.
        recipe: the whole.
        finished: how many of them are done.
    """
    return tuple(
        {
            "stage": stage.number,
            "run": str(stage.path),
            "description": recipe.stages[stage.number - 1].description,
            "teacher": str(stages[stage.number - 2].path) if stage.number > 1 else "the recipe's",
            "student": _named(stage.request),
            "losses": [loss.label for loss in stage.request.recipe.losses or ()],
            "epochs": stage.request.recipe.train.epochs,
            "steps": stage.request.recipe.train.steps,
            "finished": stage.number <= finished,
        }
        for stage in stages
    )


def _named(request: Request) -> Any:
    """A student as a recipe names it."""
    if "student" in request.models:
        return request.models["student"].name
    model = request.recipe.student.model
    return model.model_dump(mode="json", exclude_none=True) if model else None
