"""The location of a run: a new directory, an unfinished run to resume, or a finished run to show again."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.custom_kinds import has_unknown_entry
from kdcli.data.dataset import Dataset, fingerprint_dataset, load_splits, open_dataset
from kdcli.errors import StorageError, UsageError
from kdcli.events import Note
from kdcli.models.files.format import resolve_model_file
from kdcli.recipe.document import SettingPath, iterate_settings, join_path
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
from kdcli.runs.results import FinishedRun
from kdcli.runs.run_environment import hash_file, hash_model
from kdcli.setup.request import Request
from kdcli.zoo import File

# Inputs are compared by content, not by path; the devices and the gates of a run may change.
_NOT_COMPARED = (
    "description",
    "version",
    "gates",
    "train.devices",
    "data.source.path",
    *(f"data.source.{split}.path" for split in ("train", "validation", "test")),
    "teacher.model.path",
    "student.model.path",
)
# A member of an ensemble or the section of a stage is compared like a single one.
_MEMBER = re.compile(r"^(?:stages\.\d+\.)?((?:teacher|student)\.)(?:\d+\.)?")
# An empty list, and one that an earlier version did not write; a stage without settings in a section.
_EQUIVALENT: tuple[Any, ...] = ([None, []], [[], None], [None, {}], [{}, None])


@dataclass(frozen=True)
class RunLocation:
    """The directory of a run, and what it holds already.

    Args:
        path: the run directory.
        request: what to do; a resumed run has its own resolved recipe.
        earlier: `environment.json` of the run to resume.
        finished: the result of a run that is finished.
    """

    path: Path
    request: Request
    earlier: dict[str, Any] | None = None
    finished: FinishedRun | None = None

    def open(self) -> Run:
        """Create and lock the directory."""
        request = self.request
        return Run.open(
            self.path, resume=request.resume, overwrite=request.overwrite, inputs=input_paths(request.recipe)
        )


def input_paths(recipe: Recipe) -> list[Path]:
    """List the files and folders that a recipe reads; `--overwrite` never deletes them."""
    sections = [*recipe.sides.values(), *(stage.student for stage in recipe.stages if stage.student)]
    models = [getattr(section.model, "path", None) for section in sections]
    data = recipe.data.source.paths if recipe.data.source else ()
    return [Path(path) for path in (*models, *data) if path]


def find_directory(command: str, request: Request) -> Path:
    """Choose the directory of a run, and check that nothing else is in it.

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
        UsageError: the directory is in use, or holds a run with different settings or of another command.
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
    """Refuse to resume a run with different inputs.

    Raises:
        UsageError: naming the input.
    """
    for name, before in (location.earlier or {}).get("inputs", {}).items():
        now = inputs.get(name)
        if before and now and before.get("sha256") != now.get("sha256"):
            earlier, current = str(before["sha256"])[:12], str(now["sha256"])[:12]
            raise UsageError(
                f"{location.path}: the {name} has changed since the run was started: "
                f"{before.get('path') or before.get('name')} (sha256 {earlier}, now {current})",
                hint="give the same content again, or another --out",
            )


def data_key(request: Request) -> tuple[Hashable, ...]:
    """The memo key of a data set."""
    # The seed is a separate part: written out or taken from `train.seed`, it gives the same data. Augmentation is
    # applied later.
    data = request.recipe.data.model_copy(update={"seed": None, "augment": ()})
    return data.model_dump_json(), request.recipe.data_seed, request.recipe.outputs, id(request.arrays)


def open_data(request: Request, *, with_notes: bool = False) -> Dataset:
    """Open the data of a recipe, once per command.

    Args:
        request: its recipe names the data.
        with_notes: send the notes on the data to the listener, once.
    """

    def open_once() -> Dataset:
        recipe = request.recipe
        source = None if recipe.data.source is None else recipe.data.source.model_dump_json()
        splits = context.memo(
            ("splits", source, id(request.arrays)), lambda: load_splits(recipe.data, request.arrays)
        )
        return open_dataset(
            recipe.data,
            seed=recipe.data_seed,
            arrays=request.arrays,
            output_names=recipe.outputs,
            splits=splits,
        )

    context, key = request.context, data_key(request)
    dataset = context.memo(("data", *key), open_once)
    if with_notes and ("notes", *key) not in context.memo:
        for text in context.memo(("notes", *key), lambda: dataset.notes):
            context.on_event(Note(text))
    return dataset


def record_inputs(location: RunLocation, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Collect path and sha256 of every input, and check them against those of the run to resume.

    Args:
        location: of the run.
        models: the record of each model, by role.

    Raises:
        UsageError: an input differs from that of the run.
    """
    request = location.request
    inputs = {**models, **_hash_code(request)}
    inputs["data"] = {"name": open_data(request).name, "sha256": _hash_data(request)}
    check_inputs(location, inputs)
    return inputs


def _hash_data(request: Request) -> str:
    """Compute the fingerprint of a recipe's data, once per command."""
    key = ("fingerprint", *data_key(request))
    return request.context.memo(key, lambda: fingerprint_dataset(open_data(request)))


def _hash_code(request: Request) -> dict[str, Any]:
    """Hash the user's Python files, each as an input."""
    return {f"code {file.name}": {"path": str(file), "sha256": hash_file(file)} for file in request.code}


def hash_named_inputs(request: Request) -> dict[str, Any]:
    """Hash the inputs that a request for a finished run names again."""
    recipe, inputs = request.recipe, _hash_code(request)
    for name, section in recipe.sides.items():
        if isinstance(section.model, File):
            path = resolve_model_file(Path(section.model.path), trust=request.trust)
            inputs[name] = {"sha256": hash_model(path)}
    source = recipe.data.source
    named = request.origins.option_for(("data", "source")) or request.recipe_given
    if named and not has_unknown_entry(source) and request.has_data:
        inputs["data"] = {"sha256": _hash_data(request)}
    return inputs


def replace_sources(resolved: Recipe, request: Request) -> Recipe:
    """Replace files and devices in a resolved recipe by those of the request: inputs may have moved."""
    origins: Origins = request.origins
    updated = resolved
    for section, name in (("train", "devices"), ("data", "source"), ("student", "model")):
        value = getattr(getattr(request.recipe, section), name)
        if value is not None and origins.of((section, name)) != "default":
            replaced = getattr(updated, section).model_copy(update={name: value})
            updated = updated.model_copy(update={section: replaced})
    sections = list(updated.teachers)
    for number, named in enumerate(request.recipe.teachers[: len(sections)]):
        at: SettingPath = ("teacher", number, "model") if request.recipe.is_ensemble else ("teacher", "model")
        if named.model is not None and origins.of(at) != "default":
            sections[number] = sections[number].model_copy(update={"model": named.model})
    return updated.with_teachers(*sections, ensemble=updated.is_ensemble)


def refuse_other_settings(request: Request, requested: dict[str, Any], path: Path) -> None:
    """Refuse settings that differ from those of the run: all with a recipe, without one those of options.

    Raises:
        UsageError: naming the differences.
    """
    now = request.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    roots = [()] if request.recipe_given else list(request.origins.overrides)
    compared = dict.fromkeys(
        setting
        for root in roots
        for values in (requested, now)
        for setting, _ in iterate_settings(_look_up(values, root), root)
    )
    differences = []
    for setting in compared:
        name = join_path(setting)
        before, after = _look_up(requested, setting), _look_up(now, setting)
        ignored = _is_ignored(_MEMBER.sub(r"\1", name), before, after)
        if before != after and [before, after] not in _EQUIVALENT and not ignored:
            differences.append(f"{name} is {_format(before)} (requested: {_format(after)})")
    if differences:
        raise UsageError(
            f"{path} holds a run with different settings: {'; '.join(differences)}", hint=_suggest_next(path)
        )


def _is_ignored(name: str, before: Any, after: Any) -> bool:
    """Whether a difference is one of words or of places: models and data are compared by content."""
    if name == "student.model.relative_to":
        return True
    if name == "student.model.of":
        return not {before, after} & {None, "teacher", "previous"}
    return name.startswith(_NOT_COMPARED)


def _format(value: Any) -> str:
    return "not set" if value is None else str(value)


def _suggest_next(path: Path) -> str:
    if (path / SUMMARY_FILE).exists():
        return f"to train further: --student {path / STUDENT_FILE} --set student.start=file with another --out"
    return "give the same settings, or another --out"


def _look_up(values: Any, path: SettingPath) -> Any:
    for part in path:
        if isinstance(values, list):
            number = int(part) if str(part).isdecimal() else len(values)
            values = values[number] if number < len(values) else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values
