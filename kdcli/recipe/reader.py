"""From a name, a path or a mapping to a `Recipe`, with every fault at once."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from kdcli.custom_kinds import KEEP_UNKNOWN, NO_CUSTOM, CustomKinds, find_specs
from kdcli.errors import Fault, RecipeError, UsageError, did_you_mean
from kdcli.recipe.defaults import apply_changed_defaults, suggest_whole_entry
from kdcli.recipe.document import Document, SettingPath, join_path, parse_scalar, read_document
from kdcli.recipe.faults import convert_faults
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.recipe.shipped_recipes import list_shipped_recipes, read_shipped_text
from kdcli.recipe.teacher_list import expand_setting, expand_teachers
from kdcli.recipe.types import is_file_name
from kdcli.sources import parse_source

NEWEST_VERSION = 1
# Where a mapping stands, or a list of them.
SECTIONS = {
    field.alias or name for name, field in Recipe.model_fields.items() if any(find_specs(field.annotation))
}
SOURCE = ("data", "source")


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe together with where its settings came from."""

    recipe: Recipe
    origins: Origins
    source: str


def read_recipe(
    recipe: str | FilePath | Mapping[str, Any] | Recipe = "soft-targets",
    *,
    settings: Sequence[str] = (),
    options: Mapping[str, tuple[str, Any]] | None = None,
    custom: CustomKinds = NO_CUSTOM,
    teachers: int = 0,
) -> LoadedRecipe:
    """Read and check a recipe; defaults < recipe < `--set` < named options.

    A setting may change the default of another option. What a shipped recipe wrote for that option then gives way
    to the new default; what the user wrote in a recipe of their own, or gave beside it, stays.

    Args:
        recipe: a shipped name, a path (it contains `/` or ends in `.yaml`), `-` for standard input, a
            mapping, or a `Recipe`.
        settings: `path=value` entries, the value read as YAML.
        options: value by dotted path, with the option's name: `{"train.epochs": ("--epochs", 3)}`.
        custom: the kinds of the user's own files.
        teachers: how many are named beside the recipe.

    Raises:
        RecipeError: everything wrong with it, each with line and column.
        UsageError: an unknown name or a missing file.
    """
    document = _document(recipe)
    before = copy.deepcopy(document.values)
    origins = Origins(document)
    faults = list(document.faults)
    if teachers:
        expand_teachers(document, teachers)
    options = dict(options or {})
    if join_path(SOURCE) in options:
        # `--set data.source.label=price` is about the source that `--data` names.
        _put(document.values, SOURCE, options[join_path(SOURCE)][1])
    for setting in settings:
        faults.extend(_apply_setting(document, origins, setting))
    if teachers:
        # A setting may have replaced the whole section.
        expand_teachers(document, teachers)
    for name, (option, value) in options.items():
        for parts in expand_setting(document.values, name.split(".")):
            path = tuple(int(part) if part.isdecimal() else part for part in parts)
            if path != SOURCE or SOURCE in origins.overrides:
                _put(document.values, path, value)
            origins.overrides[path] = option
    _let_the_outside_win(document, origins)
    apply_changed_defaults(document, origins, before, custom)
    version = document.values.get("version")
    if isinstance(version, int) and version > NEWEST_VERSION:
        message = f"recipe version {version} is newer than this kd reads ({NEWEST_VERSION}); update kdcli"
        raise RecipeError(document.source, (Fault("version", message, None, *_line_of(document, "version")),))
    missing = [] if custom.keep_unknown else _missing_files(document, custom)
    try:
        # What a file that is not here would have defined is no fault of its own.
        checked = Recipe.model_validate(
            document.values, context=replace(custom, keep_unknown=True) if missing else custom
        )
    except ValidationError as error:
        faults.extend(convert_faults(error, document, origins, custom))
    faults += [fault for _, fault in missing]
    if faults:
        faults.sort(key=lambda fault: (fault.line or 0, fault.column or 0))
        hint = suggest_whole_entry(document, origins, custom, faults)
        if missing:
            hint = " ".join(f"--code {name}" for name, _ in missing)
        elif all("losses." in fault.setting and fault.message.startswith("unknown kind") for fault in faults):
            hint = "kd losses ls, or --code FILE.py where a file of your own defines it"
        elif hint is None and document.source != "-" and any(fault.line for fault in faults):
            hint = " ".join(["kd recipes check", document.source, *(f"--code {path}" for path in custom.paths)])
        raise RecipeError(document.source, tuple(faults), hint=hint)
    return LoadedRecipe(checked, origins, document.source)


def read_run_recipe(path: FilePath) -> Recipe:
    """The recipe of a run, for a look at what it says beside its losses; own kinds in it stay as they are written.

    Raises:
        RecipeError: somebody has changed it, and it has faults now.
    """
    return read_recipe(path, custom=KEEP_UNKNOWN).recipe


def _missing_files(document: Document, own: CustomKinds) -> list[tuple[str, Fault]]:
    """The files that a recipe requires and nobody gave, each as a fault."""
    names = document.values.get("requires")
    found = []
    for number, name in enumerate(names if isinstance(names, list | tuple) else ()):
        if isinstance(name, str) and is_file_name(name) and name not in own.files:
            place = document.value_places.get(("requires", number))
            where = (*place, document.lines[place[0] - 1]) if place else ()
            message = f"the recipe requires {name}, which was not given"
            found.append((name, Fault(join_path(("requires", number)), message, None, *where)))
    return found


def _let_the_outside_win(document: Document, origins: Origins) -> None:
    """`--epochs` replaces the recipe's `steps`, and the other way round: they are one setting in two units."""
    train = document.values.get("train")
    for ours, other in (("epochs", "steps"), ("steps", "epochs")):
        if origins.given(("train", ours)) and not origins.given(("train", other)) and isinstance(train, dict):
            train.pop(other, None)


def _line_of(document: Document, key: str) -> tuple[int | None, int | None, str | None]:
    place = document.places.get((key,))
    return (*place, document.lines[place[0] - 1]) if place else (None, None, None)


def _document(recipe: Any) -> Document:
    if isinstance(recipe, Recipe):
        return Document("recipe", recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    if isinstance(recipe, Mapping):
        return Document("recipe", copy.deepcopy(dict(recipe)))
    name = str(recipe)
    if name == "-":
        return read_document(sys.stdin.read(), "-")
    if "/" in name or name.endswith((".yaml", ".yml")) or isinstance(recipe, FilePath):
        return read_document(_text_of(name), name)
    return replace(read_document(read_shipped_recipe(name), name), shipped=True)


def read_shipped_recipe(name: str) -> str:
    """The text of a shipped recipe.

    Raises:
        UsageError: there is none of that name.
    """
    if name in list_shipped_recipes():
        return read_shipped_text(name)
    suggestion = did_you_mean(name, list_shipped_recipes())
    raise UsageError(
        f"unknown recipe {name!r}; {suggestion}shipped: {', '.join(list_shipped_recipes())}",
        hint="kd recipes ls, or a path that contains / or ends in .yaml",
    )


def _text_of(name: str) -> str:
    try:
        return FilePath(name).read_bytes().decode("utf-8")
    except FileNotFoundError:
        stem = FilePath(name).stem
        hint = "kd recipes ls"
        if stem in list_shipped_recipes():
            hint = f"--recipe {stem} uses the shipped one; kd recipes cp {stem} copies it here"
        raise UsageError(f"{name}: no such recipe file", hint=hint) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from None


def _apply_setting(document: Document, origins: Origins, setting: str) -> list[Fault]:
    left, equals, right = setting.partition("=")
    path_text = left.strip().replace("[", ".").replace("]", "")
    if not equals or not path_text:
        return [Fault("", f"{setting!r} is no setting: write path=value", origin="--set")]
    try:
        read = read_document(f"value: {right}\n", "--set")
        value, faults = read.values.get("value"), read.faults
    except RecipeError:
        value, faults = parse_scalar(right.strip()), []
    if faults:
        return [Fault(path_text, faults[0].message, origin="--set")]
    for parts in expand_setting(document.values, path_text.split(".")):
        path, fault = _resolve(document.values, parts)
        if fault:
            return [Fault(path_text, fault, origin="--set")]
        _put(document.values, path, copy.deepcopy(value))
        origins.overrides[path] = f"--set {join_path(path)}"
    return []


def _resolve(values: Any, parts: list[str]) -> tuple[SettingPath, str | None]:
    """Turn words into a path: in a list, an index or the name or kind of an item."""
    path: list[str | int] = []
    at = values
    for part in parts:
        if isinstance(at, list):
            labels = [item.get("name") or item.get("kind") for item in at if isinstance(item, dict)]
            if part.isdecimal() and int(part) < len(at):
                index = int(part)
            elif part in labels:
                if labels.count(part) > 1:
                    return (), f"{part!r} is used twice: give each a name, or use its number"
                index = labels.index(part)
            else:
                known = ", ".join(str(label) for label in labels)
                return (), f"no entry {part!r}; there are {len(at)}: {known}"
            path.append(index)
            at = at[index]
        else:
            path.append(part)
            at = at.get(part) if isinstance(at, dict) else None
    return tuple(path), None


def _put(values: Any, path: SettingPath, value: Any) -> None:
    at: Any = values
    for depth, part in enumerate(path[:-1]):
        inside = at[int(part)] if isinstance(at, list) else at.get(part)
        is_section = path[0] in SECTIONS and (depth == 0 or (depth == 1 and isinstance(at, list)))
        if is_section and inside is not None and not _takes(inside, path[depth + 1]):
            # Left as it is: the check of the whole says what should stand there.
            return
        if not isinstance(inside, dict | list):
            entry = _entry(inside, path[: depth + 1])
            if entry is None:
                return
            inside = at[part] = entry
        at = inside
    at[path[-1]] = value


def _entry(short: Any, path: SettingPath) -> dict[str, Any] | None:
    """The mapping for a short form such as `optimizer: adam` or `source: a.csv`; None where it names nothing."""
    if not isinstance(short, str):
        return {}
    if path[:2] != SOURCE:
        return {"kind": short}
    try:
        return parse_source(short)
    except ValueError:
        return None


def _takes(inside: Any, part: str | int) -> bool:
    """Whether a key, or a number in a list, can be set in what stands there."""
    return isinstance(inside, dict) or (isinstance(inside, list) and isinstance(part, int))
