"""The stages of a recipe: one request and one run directory for each distillation of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError
from kdcli.models.files.format import resolve_model_file
from kdcli.recipe.document import SettingPath
from kdcli.recipe.gates import GatesSection
from kdcli.recipe.model_sections import StudentSection, TeacherSection
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.recipe.stage_sections import StageSection, drop_settings, merge_sections
from kdcli.recipe.train_section import TrainSection
from kdcli.runs.directory import STAGES_FOLDER
from kdcli.setup.request import Request, require
from kdcli.zoo import File, Shrunk

# The length of training, in either of two units.
_LENGTH = frozenset({"epochs", "steps"})


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One distillation of a chain.

    Args:
        number: counted from 1.
        count: number of stages.
        path: of its run.
        request: of this distillation alone.
    """

    number: int
    count: int
    path: Path
    request: Request

    @property
    def is_last(self) -> bool:
        """Whether its student is the student of the chain."""
        return self.number == self.count


def stages_of(request: Request, path: Path) -> tuple[Stage, ...]:
    """Return the stages of a recipe; the teacher of each is the student of the one before.

    Args:
        request: with all stages.
        path: of the chain, and of the run of the last stage; the other runs are `stages/1`, `stages/2`, ... in it.
    """
    request, count = resolve_stages(request), len(request.recipe.stages)
    paths = [path / STAGES_FOLDER / str(number) for number in range(1, count)] + [path]
    return tuple(
        Stage(
            number=number,
            count=count,
            path=paths[number - 1],
            request=_make_stage_request(request, number, paths),
        )
        for number in range(1, count + 1)
    )


def resolve_stages(request: Request) -> Request:
    """Remove the settings from stages that an option overrides, so that the recipe alone describes the chain.

    Options such as `--epochs` and `--set train...` apply to all stages, `--student` to the last one.
    """
    train, student = _list_overrides(request, "train"), _list_overrides(request, "student")
    train |= _LENGTH if train & _LENGTH else frozenset()
    stages = request.recipe.stages
    remaining = tuple(
        _drop_overrides(stage, train, student if number == len(stages) else frozenset())
        for number, stage in enumerate(stages, 1)
    )
    return replace(request, recipe=request.recipe.model_copy(update={"stages": remaining}))


def _drop_overrides(stage: StageSection, train: frozenset[str], student: frozenset[str]) -> StageSection:
    update: dict[str, Any] = {}
    if stage.train is not None:
        update["train"] = drop_settings(stage.train, train)
    if stage.student is not None:
        update["student"] = drop_settings(stage.student, student)
    return stage.model_copy(update=update)


def last_stage(request: Request) -> Request:
    """Return the request of the last stage, or the request itself if its recipe has no stages."""
    return stages_of(request, Path())[-1].request if request.recipe.stages else request


def check_stages(stages: tuple[Stage, ...]) -> None:
    """Refuse an incomplete stage before the first one is trained.

    Raises:
        UsageError: a stage has no student or no losses, or an object would be trained twice.
        ModelError: the file of a student is missing.
    """
    for stage in stages:
        request = stage.request
        require(request, "data", "student", *([] if stage.number > 1 else ["teacher"]))
        if request.recipe.losses is None:
            raise UsageError(
                f"stage {stage.number} has no losses", hint="add losses to the recipe or to each stage"
            )
        if "student" not in request.models and isinstance(request.recipe.student.model, File):
            resolve_model_file(Path(request.recipe.student.model.path), trust=request.trust)
    if sum("student" in stage.request.models for stage in stages) > 1:
        raise UsageError(
            "a model object is trained in place: it cannot be the student of several stages",
            hint="set `student` in each stage before the last one, or give the model as a file",
        )


def _make_stage_request(request: Request, number: int, paths: list[Path]) -> Request:
    """The request of one stage, counted from 1."""
    recipe, stage = request.recipe, request.recipe.stages[number - 1]
    last = number == len(paths)
    student = _resolve_student(recipe, stage, number, paths)
    by_first = _is_taught_by_first(stage, student, number)
    models = {role: model for role, model in request.models.items() if by_first or not role.startswith("teacher")}
    if stage.student is not None and stage.student.model is not None and not last:
        models.pop("student", None)
    update: dict[str, Any] = {
        "stages": (),
        "description": stage.description or recipe.description,
        "student": student,
        "losses": stage.losses or recipe.losses,
        "train": _merge_train(recipe, stage),
        "gates": recipe.gates if last else GatesSection(),
    }
    if not by_first:
        # How outputs are computed and stored applies to every teacher; the input settings are those of its run.
        first = recipe.teacher
        settings = {name: getattr(first, name) for name in ("precision", "targets", "views")}
        assistant = TeacherSection(model=File(path=str(paths[number - 2])), **settings)
        update |= {"taught_by": assistant, "ensemble": None}
    origins = _select_origins(request.origins, number - 1)
    if not by_first:
        # A resumed chain may have been moved, and its earlier stages with it.
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


def _resolve_student(recipe: Recipe, stage: StageSection, number: int, paths: list[Path]) -> StudentSection:
    """The student of a stage; a shrunk one that comes from the previous student names its run.

    Raises:
        UsageError: the first stage has no previous student.
    """
    student: StudentSection = merge_sections(recipe.student, stage.student)
    own = stage.student
    if own is not None and isinstance(own.model, Shrunk) and "start" not in own.model_fields_set:
        # The start of another student does not apply to it.
        student = student.model_copy(update={"start": "auto"})
    if not isinstance(student.model, Shrunk) or student.model.of != "previous":
        return student
    if number == 1:
        raise UsageError(
            "student.model.of is previous, but the first stage has no previous student", hint="of: teacher"
        )
    update = {"of": str(paths[number - 2])}
    if not _is_taught_by_first(stage, student, number):
        # The teacher of this stage is smaller already; `keep` counts the channels of the first one.
        first = recipe.teachers[0].model
        if not isinstance(first, File):
            raise UsageError(
                f"stage {number}: teacher: previous with a shrunk student needs a teacher from a file",
                hint="save the teacher and give the file, or leave out teacher: previous",
            )
        update["relative_to"] = first.path
    return student.model_copy(update={"model": student.model.model_copy(update=update)})


def _is_taught_by_first(stage: StageSection, student: StudentSection, number: int) -> bool:
    """Whether the teacher of the recipe teaches a stage, rather than the previous student."""
    default = "first" if isinstance(student.model, Shrunk) else "previous"
    return number == 1 or (stage.teacher or default) == "first"


def _merge_train(recipe: Recipe, stage: StageSection) -> TrainSection:
    train = merge_sections(recipe.train, stage.train)
    length = stage.train.model_fields_set & _LENGTH if stage.train is not None else frozenset()
    # The length of a stage replaces that of the recipe, even in the other unit.
    return train.model_copy(update=dict.fromkeys(_LENGTH - length)) if length else train


def _list_overrides(request: Request, section: str) -> frozenset[str]:
    """The settings of a section that options override; all of them if an option sets the whole section."""
    found: set[str] = set()
    for path in request.origins.overrides:
        if path == (section,):
            found |= set(type(getattr(request.recipe, section)).model_fields)
        elif path[0] == section:
            found.add(str(path[1]))
    return frozenset(found)


def _select_origins(origins: Origins, number: int) -> Origins:
    """The origins of the settings of one stage, counted from 0: its own entry, else the recipe."""
    at: SettingPath = (STAGES_FOLDER, number)

    def select(entries: Mapping[SettingPath, Any]) -> dict[SettingPath, Any]:
        inner = {path[2:]: entry for path, entry in entries.items() if path[:2] == at and len(path) > 2}
        outer = {path: entry for path, entry in entries.items() if path[:1] != (STAGES_FOLDER,)}
        return {**outer, **inner}

    document = replace(
        origins.document,
        key_positions=select(origins.document.key_positions),
        value_positions=select(origins.document.value_positions),
    )
    return Origins(document, select(origins.overrides), select(origins.implied_defaults), list(origins.notes))


def describe_stages(stages: tuple[Stage, ...], recipe: Recipe, *, finished: int) -> tuple[dict[str, Any], ...]:
    """Return the stages as the plan lists them.

    Args:
        stages: all of them, in order.
        recipe: of the chain.
        finished: number of finished stages.
    """
    return tuple(
        {
            "stage": stage.number,
            "run": str(stage.path),
            "description": recipe.stages[stage.number - 1].description,
            "teacher": _describe_teacher(stage, stages),
            "student": _describe_student(stage.request),
            "losses": [loss.label for loss in stage.request.recipe.losses or ()],
            "epochs": stage.request.recipe.train.epochs,
            "steps": stage.request.recipe.train.steps,
            "finished": stage.number <= finished,
        }
        for stage in stages
    )


def _describe_teacher(stage: Stage, stages: tuple[Stage, ...]) -> str:
    """The run of the previous student, or the recipe's teacher."""
    section = stage.request.recipe.teacher.model
    previous = str(stages[stage.number - 2].path) if stage.number > 1 else None
    return previous if previous is not None and getattr(section, "path", None) == previous else "the recipe's"


def _describe_student(request: Request) -> str | dict[str, Any] | None:
    """The name of a student object, or its entry in the recipe."""
    if "student" in request.models:
        return str(request.models["student"].name)
    model = request.recipe.student.model
    return model.model_dump(mode="json", exclude_none=True) if model else None
