"""Where a run goes: a new directory, an unfinished run that goes on, or a finished one that is shown again."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.custom_kinds import has_unknown_entry
from kdcli.data.dataset import Dataset, fingerprint_dataset, open_dataset
from kdcli.errors import StorageError, UsageError
from kdcli.events import Note
from kdcli.models.files.format import resolve_model_file
from kdcli.recipe.document import SettingPath as Setting
from kdcli.recipe.document import iterate_settings, join_path
from kdcli.recipe.origins import Origins
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs import writer
from kdcli.runs.directory import (
    CHECKPOINT_FOLDER,
    ENVIRONMENT_FILE,
    RECIPE_FILE,
    STUDENT_FILE,
    SUMMARY_FILE,
    Run,
    check_run_folder,
    choose_run_folder,
    find_run_model,
    read_json,
)
from kdcli.runs.records import hash_file, hash_model
from kdcli.runs.results import FinishedRun
from kdcli.setup.request import Request
from kdcli.zoo import File


@dataclass(frozen=True)
class RunLocation:
    """Where a run goes: a new directory, an unfinished run to continue, or a finished one.

    Args:
        path: the directory.
        request: what to do; for a run that is continued, its own resolved recipe.
        earlier: `environment.json` of the run that is continued.
        finished: the result, when nothing is left to do.
    """

    path: Path
    request: Request
    earlier: dict[str, Any] | None = None
    finished: FinishedRun | None = None

    def open(self) -> Run:
        """Make and lock the directory."""
        request = self.request
        return Run.open(
            self.path, resume=request.resume, overwrite=request.overwrite, inputs=input_paths(request.recipe)
        )


def input_paths(recipe: Recipe) -> list[Path]:
    """The files and folders that a recipe reads: `--overwrite` never deletes one of them."""
    sections = [*recipe.sides.values(), *(stage.student for stage in recipe.stages if stage.student)]
    models = [getattr(section.model, "path", None) for section in sections]
    data = recipe.data.source.paths if recipe.data.source else ()
    return [Path(path) for path in (*models, *data) if path]


def find_directory(command: str, request: Request) -> Path:
    """The directory of a run, checked: nothing else is in it.

    Raises:
        UsageError: the directory is in use, or the options exclude each other.
    """
    if request.resume and request.overwrite:
        raise UsageError("--resume and --overwrite exclude each other: continue the run, or delete it")
    if request.resume and request.out is None:
        raise UsageError("--resume needs the run to continue", hint="--out runs/NAME --resume")
    path = request.out if request.out is not None else choose_run_folder(command, request.name)
    check_run_folder(path, resume=request.resume, overwrite=request.overwrite)
    return path


def find_location(command: str, request: Request) -> RunLocation:
    """Decide where the run goes, before anything is loaded and without writing.

    Raises:
        UsageError: the directory is in use, or holds a run of other settings or another command.
    """
    path = find_directory(command, request)
    if not request.resume or not (path / ENVIRONMENT_FILE).exists():
        return RunLocation(path, request)
    earlier = read_json(path / ENVIRONMENT_FILE)
    if earlier.get("command") != command:
        raise UsageError(f"{path} holds a run of `kd {earlier.get('command')}`, not of `kd {command}`")
    refuse_other_settings(request, earlier["requested"], path)
    if (path / SUMMARY_FILE).exists():
        document, model = read_json(path / SUMMARY_FILE), find_run_model(path)
        if model is None:
            raise StorageError(
                f"{path}: the run is finished, but its model is missing", hint="train it again: --overwrite"
            )
        location = RunLocation(path, request, earlier, FinishedRun(path, model, document))
        check_inputs(location, hash_named_inputs(request))
        writer.remove(path / CHECKPOINT_FOLDER)
        return location
    resolved = read_recipe(path / RECIPE_FILE, custom=request.custom)
    recipe = replace_sources(resolved.recipe, request)
    return RunLocation(path, replace(request, recipe=recipe, origins=resolved.origins), earlier)


def check_inputs(location: RunLocation, inputs: dict[str, Any]) -> None:
    """Refuse to continue with inputs other than those of the first start.

    Raises:
        UsageError: naming the input.
    """
    for name, before in (location.earlier or {}).get("inputs", {}).items():
        now = inputs.get(name)
        if before and now and before.get("sha256") != now.get("sha256"):
            raise UsageError(
                f"{location.path} was started with another {name}: {before.get('path') or before.get('name')} "
                f"(sha256 {str(before['sha256'])[:12]}), this is {str(now['sha256'])[:12]}",
                hint="give the same content again, or another --out",
            )


def data_key(request: Request) -> tuple[Hashable, ...]:
    """The memo key of a data set."""
    # The seed is a part of its own: written out or taken from `train.seed`, it is the same data.
    data = request.recipe.data.model_copy(update={"seed": None})
    return data.model_dump_json(), request.recipe.data_seed, request.recipe.outputs, id(request.arrays)


def open_data(request: Request, *, with_notes: bool = False) -> Dataset:
    """The data of a recipe, opened once.

    Args:
        request: whose data.
        with_notes: show the notes on the data, once.
    """

    def open_once() -> Dataset:
        recipe = request.recipe
        return open_dataset(recipe.data, seed=recipe.data_seed, arrays=request.arrays, output_names=recipe.outputs)

    context, key = request.context, data_key(request)
    dataset = context.memo(("data", *key), open_once)
    if with_notes and ("notes", *key) not in context.memo:
        for text in context.memo(("notes", *key), lambda: dataset.notes):
            context.on_event(Note(text))
    return dataset


def record_inputs(location: RunLocation, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Path and sha256 of every input, checked against those of the run that is continued.

    Args:
        location: of the run.
        models: what is known of each model, by role.

    Raises:
        UsageError: an input differs from that of the first start.
    """
    request = location.request
    inputs = {**models, **hash_code(request)}
    inputs["data"] = {"name": open_data(request).name, "sha256": hash_data(request)}
    check_inputs(location, inputs)
    return inputs


def hash_data(request: Request) -> str:
    """The fingerprint of a recipe's data, computed once."""
    key = ("fingerprint", *data_key(request))
    return request.context.memo(key, lambda: fingerprint_dataset(open_data(request)))


def hash_code(request: Request) -> dict[str, Any]:
    """The user's own files with their sha256, each as an input."""
    return {f"code {file.name}": {"path": str(file), "sha256": hash_file(file)} for file in request.code}


def hash_named_inputs(request: Request) -> dict[str, Any]:
    """The sha256 of the inputs that were named again for a run that is finished."""
    recipe, inputs = request.recipe, hash_code(request)
    for name, section in recipe.sides.items():
        if isinstance(section.model, File):
            path = resolve_model_file(Path(section.model.path), trust=request.trust)
            inputs[name] = {"sha256": hash_model(path)}
    source = recipe.data.source
    named = request.origins.given(("data", "source")) or request.recipe_given
    if named and not has_unknown_entry(source) and (source is not None or request.arrays is not None):
        inputs["data"] = {"sha256": hash_data(request)}
    return inputs


def replace_sources(resolved: Recipe, request: Request) -> Recipe:
    """The resolved recipe with the files and devices as they are named now: they may be others."""
    origins: Origins = request.origins
    updated = resolved
    if origins.of(("train", "devices")) != "default":
        train = updated.train.model_copy(update={"devices": request.recipe.train.devices})
        updated = updated.model_copy(update={"train": train})
    if request.recipe.data.source is not None and origins.of(("data", "source")) != "default":
        updated = updated.model_copy(
            update={"data": updated.data.model_copy(update={"source": request.recipe.data.source})}
        )
    model = request.recipe.student.model
    if model is not None and origins.of(("student", "model")) != "default":
        updated = updated.model_copy(update={"student": updated.student.model_copy(update={"model": model})})
    several = updated.is_ensemble
    sections = list(updated.teachers)
    for number, named in enumerate(request.recipe.teachers[: len(sections)]):
        at: Setting = ("teacher", number, "model") if request.recipe.is_ensemble else ("teacher", "model")
        if named.model is not None and origins.of(at) != "default":
            sections[number] = sections[number].model_copy(update={"model": named.model})
    return updated.with_teachers(*sections, ensemble=several)


# Inputs are matched by content, not by path; where a run was computed is no setting of it.
BY_CONTENT = (
    "train.devices",
    "data.source.path",
    *(f"data.source.{split}.path" for split in ("train", "validation", "test")),
    "teacher.model.path",
    "student.model.path",
)
# One of several teachers, or of several stages, is matched as one alone.
_UNNUMBERED = re.compile(r"^(?:stages\.\d+\.)?((?:teacher|student)\.)(?:\d+\.)?")
# A list that is empty, and one that an earlier version did not write; a stage that says nothing of a section.
_NOTHING: tuple[Any, ...] = ([None, []], [[], None], [None, {}], [{}, None])


def refuse_other_settings(request: Request, requested: dict[str, Any], path: Path) -> None:
    """With a recipe everything must be as it was; without one, what options and `--set` say.

    Raises:
        UsageError: naming the differences.
    """
    now = request.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    outside = [()] if request.recipe_given else list(request.origins.overrides)
    compared = dict.fromkeys(
        setting
        for path in outside
        for values in (requested, now)
        for setting, _ in iterate_settings(_at(values, path), path)
    )
    differences = []
    for setting in compared:
        name = join_path(setting)
        before, after = _at(requested, setting), _at(now, setting)
        by_content = _UNNUMBERED.sub(r"\1", name).startswith((*BY_CONTENT, "description", "version", "gates"))
        if before != after and [before, after] not in _NOTHING and not by_content:
            differences.append(f"{name} is {_said(before)}, asked for {_said(after)}")
    if differences:
        raise UsageError(f"{path} holds a run with other settings: {'; '.join(differences)}", hint=_way_on(path))


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)


def _way_on(path: Path) -> str:
    if (path / SUMMARY_FILE).exists():
        return f"to train on: --student {path / STUDENT_FILE} --set student.start=file with another --out"
    return "give the same settings, or another --out"


def _at(values: Any, path: Setting) -> Any:
    for part in path:
        if isinstance(values, list):
            number = int(part) if str(part).isdecimal() else len(values)
            values = values[number] if number < len(values) else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values
