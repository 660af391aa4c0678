"""The teacher of a finished run, opened again: what the files exported from its student are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import ModelError
from kdcli.events import Note
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.recipe.reader import read_run_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import ENVIRONMENT_FILE, SUMMARY_FILE, find_run_recipe, read_json
from kdcli.setup.context import Context
from kdcli.setup.ensemble_members import member_requests
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.open_teachers import open_teachers
from kdcli.setup.request import Request
from kdcli.teacher.ensemble import make_ensemble
from kdcli.teacher.resolve import open_split_logits
from kdcli.zoo import File


@dataclass(frozen=True)
class RunTeacher:
    """The teacher of a run, or its teachers.

    Args:
        opened: the teachers.
        logits: (n, ...) on the examples that files are compared on, mixed where there are several.
    """

    opened: tuple[OpenedModel, ...]
    logits: np.ndarray

    def only(self) -> tuple[Any, str | None]:
        """The network to be timed, and the sha256 of its file.

        Raises:
            ModelError: there are several teachers.
        """
        if len(self.opened) > 1:
            raise ModelError(f"there are {len(self.opened)} teachers")
        return self.opened[0].network, self.opened[0].sha256


def teacher_recipe(given: Path, request: Recipe) -> Recipe | None:
    """The recipe that names the teacher: the one that is given if it names a file, else the run's own.

    Args:
        given: a model file or a run directory.
        asked: the recipe of the command.

    Returns:
        None where no teacher's file is known: of a file outside of a run, of a run without a teacher, and of a
        teacher that was an object.
    """
    if isinstance(request.teacher.model, File):
        return request
    own = find_run_recipe(given)
    if own is None or not (own.parent / SUMMARY_FILE).is_file():
        return None
    recipe = read_run_recipe(own)
    taught = read_json(own.parent / SUMMARY_FILE).get("teacher") is not None
    return recipe if taught and all(isinstance(one.model, File) for one in recipe.teachers) else None


def open_run_teacher(
    given: Path, recipe: Recipe, request: Request, dataset: Dataset, examples: Examples
) -> RunTeacher:
    """Open the teacher and let it answer examples; the cache holds its outputs on the test split of the run.

    Args:
        given: the run.
        recipe: from `teacher_recipe`.
        asked: what the command was asked for.

    Raises:
        ModelError: the teacher's file is gone, or does not fit the data; or its outputs were recorded, which
            says nothing of other examples.
    """
    taught = request.recipe.model_copy(update={"taught_by": recipe.taught_by, "ensemble": recipe.ensemble})
    request = replace(request, recipe=taught)
    for path in [Path(one.model.path) for one in taught.teachers if isinstance(one.model, File)]:
        if not path.exists() and "://" not in str(path):
            raise ModelError(
                f"{given}: the teacher of this run, {path}, does not exist",
                hint="--set 'teacher.model={kind: file, path: FILE}' says where it is",
            )
    opened = open_teachers(request, dataset)
    _say_changes(given, opened, request.context)
    outputs = []
    for own, one in zip(member_requests(request), opened, strict=True):
        if isinstance(one.network, RecordedNetwork):
            raise ModelError(
                f"{one.network.name}: recorded outputs of the teacher are about training examples only",
                hint="--set 'teacher.model={kind: file, path: FILE}' names the teacher itself",
            )
        outputs.append(open_split_logits(own, dataset, one)(examples.split, examples))
    logits = make_ensemble(taught, opened).of(outputs) if taught.is_ensemble else outputs[0]
    return RunTeacher(opened, logits)


def _say_changes(given: Path, opened: tuple[OpenedModel, ...], context: Context) -> None:
    """Say that a teacher's file is not the one that taught."""
    own = find_run_recipe(given)
    if own is None:
        return
    inputs = read_json(own.parent / ENVIRONMENT_FILE).get("inputs", {})
    for number, one in enumerate(opened):
        known = inputs.get("teacher" if len(opened) == 1 else f"teacher.{number}") or {}
        if known.get("sha256") not in (None, one.sha256):
            text = f"{one.path} is not the file that taught {given}: its content differs"
            context.on_event(Note(text, warning=True))
