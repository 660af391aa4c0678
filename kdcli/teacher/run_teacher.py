"""Opens the teacher of a finished run again, to compare exported files of its student with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import ModelError
from kdcli.events import Note
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.network import Network
from kdcli.recipe.reader import read_run_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import ENVIRONMENT_FILE, SUMMARY_FILE, find_run_recipe, read_json
from kdcli.setup.context import Context
from kdcli.setup.ensemble_requests import member_requests
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.open_teachers import open_teachers
from kdcli.setup.request import Request
from kdcli.teacher.ensemble import make_ensemble
from kdcli.teacher.split_logits import open_split_logits
from kdcli.zoo import File

_HINT = "--set 'teacher.model={kind: file, path: FILE}'"


@dataclass(frozen=True)
class RunTeacher:
    """The teacher or ensemble of a run.

    Args:
        opened: the teacher, or the members of the ensemble.
        logits: logits (n, ...) for the examples on which files are compared; mixed for an ensemble.
    """

    opened: tuple[OpenedModel, ...]
    logits: np.ndarray

    def only(self) -> tuple[Network, str | None]:
        """The network to time, and the sha256 of its file.

        Raises:
            ModelError: an ensemble.
        """
        if len(self.opened) > 1:
            raise ModelError(f"there are {len(self.opened)} teachers")
        return self.opened[0].network, self.opened[0].sha256


def teacher_recipe(model: Path, recipe: Recipe) -> Recipe | None:
    """Find the recipe that names the teacher: the given one if it names a file, else that of the run.

    Args:
        model: a model file or a run directory.
        recipe: the recipe of the command.

    Returns:
        None if no file of the teacher is known: for a file outside a run, for a run without a teacher, and for a
        teacher that was an object.
    """
    if isinstance(recipe.teacher.model, File):
        return recipe
    path = find_run_recipe(model)
    if path is None or not (path.parent / SUMMARY_FILE).is_file():
        return None
    run_recipe = read_run_recipe(path)
    has_teacher = read_json(path.parent / SUMMARY_FILE).get("teacher") is not None
    are_files = all(isinstance(section.model, File) for section in run_recipe.teachers)
    return run_recipe if has_teacher and are_files else None


def open_run_teacher(
    model: Path, recipe: Recipe, request: Request, dataset: Dataset, examples: Examples
) -> RunTeacher:
    """Open the teacher and compute its logits; the cache holds those for the test split of the run.

    Args:
        model: a model file or the run directory.
        recipe: the recipe from `teacher_recipe`.
        request: the request of the command.
        dataset: the data.
        examples: the examples on which files are compared.

    Raises:
        ModelError: the teacher's file does not exist or does not fit the data, or its outputs are recorded.
    """
    recipe = request.recipe.model_copy(update={"taught_by": recipe.taught_by, "ensemble": recipe.ensemble})
    request = replace(request, recipe=recipe)
    for path in [Path(section.model.path) for section in recipe.teachers if isinstance(section.model, File)]:
        if not path.exists() and "://" not in str(path):
            raise ModelError(
                f"{model}: the teacher of this run, {path}, does not exist", hint=f"{_HINT} says where it is"
            )
    opened = open_teachers(request, dataset)
    _warn_about_changes(model, opened, request.context)
    member_logits = []
    for member_request, member in zip(member_requests(request), opened, strict=True):
        if isinstance(member.network, RecordedNetwork):
            raise ModelError(
                f"{member.network.name}: recorded outputs cover only the training examples",
                hint=f"{_HINT} names the teacher itself",
            )
        member_logits.append(open_split_logits(member_request, dataset, member)(examples.split, examples))
    logits = make_ensemble(recipe, opened).of(member_logits) if recipe.is_ensemble else member_logits[0]
    return RunTeacher(opened, logits)


def _warn_about_changes(model: Path, opened: tuple[OpenedModel, ...], context: Context) -> None:
    """Warn if the content of a teacher's file has changed since the run."""
    recipe_path = find_run_recipe(model)
    if recipe_path is None:
        return
    inputs = read_json(recipe_path.parent / ENVIRONMENT_FILE).get("inputs", {})
    for number, member in enumerate(opened):
        earlier = inputs.get("teacher" if len(opened) == 1 else f"teacher.{number}") or {}
        if earlier.get("sha256") not in (None, member.sha256):
            text = f"{member.path}: the content differs from the teacher of {model}"
            context.on_event(Note(text, warning=True))
