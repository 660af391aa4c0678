"""Reads a recipe from a name, a path, a mapping or a `Recipe`, and reports all faults at once."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdcli.custom_kinds import KEEP_UNKNOWN, NO_CUSTOM, CustomKinds
from kdcli.errors import Fault, RecipeError, UsageError
from kdcli.recipe.document import Document, join_path, read_document
from kdcli.recipe.faults import convert_faults
from kdcli.recipe.implied_defaults import apply_changed_defaults, suggest_whole_entry
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.recipe.settings import apply_settings
from kdcli.recipe.shipped_recipes import DEFAULT_RECIPE, list_shipped_recipes, read_shipped_recipe
from kdcli.recipe.types import is_file_name

NEWEST_VERSION = 1


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where its settings came from.

    Args:
        recipe: the validated recipe.
        origins: the origin of each setting.
        source: the name that messages use: a path, a shipped name, `-` or `recipe`.
    """

    recipe: Recipe
    origins: Origins
    source: str


def read_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe = DEFAULT_RECIPE,
    *,
    settings: Sequence[str] = (),
    options: Mapping[str, tuple[str, Any]] | None = None,
    custom: CustomKinds = NO_CUSTOM,
    teachers: int = 0,
) -> LoadedRecipe:
    """Read and validate a recipe. Precedence: defaults < recipe < `--set` < named options.

    A setting may change the default of another option. The new default replaces a value written in a shipped
    recipe, but not one written in the user's own recipe or set from outside.

    Args:
        recipe: a shipped name, a path (it contains `/` or ends in `.yaml`), `-` for standard input, a mapping,
            or a `Recipe`.
        settings: `path=value` entries, with values read as YAML.
        options: option name and value by dotted path: `{"train.epochs": ("--epochs", 3)}`.
        custom: the kinds defined by `--code` files.
        teachers: number of teachers given on the command line.

    Raises:
        RecipeError: all faults of the recipe, each with line and column.
        UsageError: the name is unknown or the file is missing.
    """
    document = _open_document(recipe)
    written = copy.deepcopy(document.values)
    origins = Origins(document)
    faults = list(document.faults)
    faults += apply_settings(document, origins, settings=settings, options=options or {}, teachers=teachers)
    apply_changed_defaults(document, origins, written, custom)
    _check_version(document)
    missing = [] if custom.keep_unknown else _find_missing_files(document, custom)
    # A kind that a missing file would have defined is not a fault of its own.
    context = replace(custom, keep_unknown=True) if missing else custom
    try:
        checked = Recipe.model_validate(document.values, context=context)
    except ValidationError as error:
        faults += convert_faults(error, document, origins, custom)
    faults += [fault for _, fault in missing]
    if faults:
        faults.sort(key=lambda fault: (fault.line or 0, fault.column or 0))
        hint = " ".join(f"--code {name}" for name, _ in missing) or _choose_hint(document, origins, custom, faults)
        raise RecipeError(document.source, tuple(faults), hint=hint)
    return LoadedRecipe(checked, origins, document.source)


def read_run_recipe(path: Path) -> Recipe:
    """Read the recipe of a run without its `--code` files: entries of custom kinds are kept unchanged.

    Raises:
        RecipeError: the file was changed and is no longer valid.
    """
    return read_recipe(path, custom=KEEP_UNKNOWN).recipe


def _open_document(recipe: Any) -> Document:
    if isinstance(recipe, Recipe):
        return Document("recipe", recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    if isinstance(recipe, Mapping):
        return Document("recipe", copy.deepcopy(dict(recipe)))
    name = str(recipe)
    if name == "-":
        return read_document(sys.stdin.read(), "-")
    if "/" in name or name.endswith((".yaml", ".yml")) or isinstance(recipe, Path):
        return read_document(_read_text(name), name)
    return replace(read_document(read_shipped_recipe(name), name), shipped=True)


def _read_text(name: str) -> str:
    try:
        return Path(name).read_bytes().decode("utf-8")
    except FileNotFoundError:
        stem = Path(name).stem
        hint = "kd recipes ls"
        if stem in list_shipped_recipes():
            hint = f"--recipe {stem} uses the shipped recipe; kd recipes cp {stem} copies it here"
        raise UsageError(f"{name}: no such recipe file", hint=hint) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from None


def _check_version(document: Document) -> None:
    version = document.values.get("version")
    if isinstance(version, int) and version > NEWEST_VERSION:
        message = f"recipe version {version} is newer than version {NEWEST_VERSION}, the newest that this kd reads"
        position = document.key_positions.get(("version",))
        fault = document.make_fault("version", message, position=position, suggestion="update kdcli")
        raise RecipeError(document.source, (fault,))


def _find_missing_files(document: Document, custom: CustomKinds) -> list[tuple[str, Fault]]:
    """Find the required files that were not given, each with its fault."""
    names = document.values.get("requires")
    missing = []
    for number, name in enumerate(names if isinstance(names, list | tuple) else ()):
        if isinstance(name, str) and is_file_name(name) and name not in custom.files:
            path = ("requires", number)
            message = f"the recipe requires {name}, which was not given"
            position = document.value_positions.get(path)
            missing.append((name, document.make_fault(join_path(path), message, position=position)))
    return missing


def _choose_hint(document: Document, origins: Origins, custom: CustomKinds, faults: Sequence[Fault]) -> str | None:
    if all("losses." in fault.setting and fault.message.startswith("unknown kind") for fault in faults):
        return "kd losses ls, or --code FILE.py if one of your own files defines the kind"
    hint = suggest_whole_entry(document, origins, custom, faults)
    if hint is None and document.source != "-" and any(fault.line for fault in faults):
        return " ".join(["kd recipes check", document.source, *(f"--code {path}" for path in custom.paths)])
    return hint
