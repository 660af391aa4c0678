"""Settings from outside a recipe's text: `--set` entries and command-line options, applied to its values."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from kdcli.custom_kinds import find_specs
from kdcli.errors import Fault, RecipeError, UsageError
from kdcli.recipe.document import Document, SettingPath, join_path, parse_scalar, read_document
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.sources import parse_source

# Keys whose value is a mapping or a list of mappings.
_SECTIONS = {
    field.alias or name for name, field in Recipe.model_fields.items() if any(find_specs(field.annotation))
}
_SOURCE = ("data", "source")
_TEACHER = "teacher"


def apply_settings(
    document: Document,
    origins: Origins,
    *,
    settings: Sequence[str],
    options: Mapping[str, tuple[str, Any]],
    teachers: int,
) -> list[Fault]:
    """Apply settings and options to the values of a document; options take precedence.

    Args:
        document: changed in place.
        origins: receives the option or `--set` of each changed setting.
        settings: `path=value` entries.
        options: option name and value by dotted path.
        teachers: number of teachers given on the command line.

    Returns:
        The faults of the settings.

    Raises:
        UsageError: the recipe lists another number of teachers.
    """
    faults = []
    if teachers:
        _expand_teachers(document, teachers)
    if join_path(_SOURCE) in options:
        # `--set data.source.label=price` is about the source that `--data` names.
        _put(document.values, _SOURCE, options[join_path(_SOURCE)][1])
    for setting in settings:
        faults.extend(_apply_setting(document, origins, setting))
    if teachers:
        # A setting may have replaced the whole section.
        _expand_teachers(document, teachers)
    for name, (option, value) in options.items():
        for parts in _expand_setting(document.values, name.split(".")):
            path = tuple(int(part) if part.isdecimal() else part for part in parts)
            if path != _SOURCE or _SOURCE in origins.overrides:
                _put(document.values, path, value)
            origins.overrides[path] = option
    _drop_replaced_length(document, origins)
    return faults


def _expand_teachers(document: Document, count: int) -> None:
    """Repeat the recipe's single `teacher` section for each teacher on the command line."""
    section = document.values.get(_TEACHER)
    if isinstance(section, list) and len(section) != count:
        raise UsageError(
            f"--teacher is given {'once' if count == 1 else f'{count} times'}, but {document.source} lists "
            f"{len(section)} {'teacher' if len(section) == 1 else 'teachers'}",
            hint="give --teacher FILE once for each teacher, in the recipe's order",
        )
    # The validation of the whole recipe reports a value that is not a section.
    if count == 1 or not isinstance(section, dict | None):
        return
    document.values[_TEACHER] = [copy.deepcopy(section or {}) for _ in range(count)]
    for positions in (document.key_positions, document.value_positions):
        for path in [path for path in positions if path[0:1] == (_TEACHER,) and len(path) > 1]:
            for number in range(count):
                positions[_TEACHER, number, *path[1:]] = positions[path]


def _expand_setting(values: dict[str, Any], parts: Sequence[str]) -> list[list[str]]:
    """Expand a `teacher` setting without a number into one for each of several teachers."""
    teachers = values.get(_TEACHER)
    single = parts[0] != _TEACHER or len(parts) < 2 or parts[1].isdecimal()
    if single or not isinstance(teachers, list):
        return [list(parts)]
    return [[_TEACHER, str(number), *parts[1:]] for number in range(len(teachers))]


def _drop_replaced_length(document: Document, origins: Origins) -> None:
    """Let `--epochs` replace the recipe's `steps`, and vice versa: they are one setting in two units."""
    train = document.values.get("train")
    for name, other in (("epochs", "steps"), ("steps", "epochs")):
        overridden = origins.option_for(("train", name)) and not origins.option_for(("train", other))
        if overridden and isinstance(train, dict):
            train.pop(other, None)


def _apply_setting(document: Document, origins: Origins, setting: str) -> list[Fault]:
    left, equals, right = setting.partition("=")
    path_text = left.strip().replace("[", ".").replace("]", "")
    if not equals or not path_text:
        return [Fault("", f"{setting!r} is not a setting; expected PATH=VALUE", origin="--set")]
    try:
        parsed = read_document(f"value: {right}\n", "--set")
        value, faults = parsed.values.get("value"), parsed.faults
    except RecipeError:
        value, faults = parse_scalar(right.strip()), []
    if faults:
        return [Fault(path_text, faults[0].message, origin="--set")]
    for parts in _expand_setting(document.values, path_text.split(".")):
        path, fault = _resolve_path(document.values, parts)
        if fault:
            return [Fault(path_text, fault, origin="--set")]
        _put(document.values, path, copy.deepcopy(value))
        origins.overrides[path] = f"--set {join_path(path)}"
    return []


def _resolve_path(values: Any, parts: list[str]) -> tuple[SettingPath, str | None]:
    """Resolve the parts of a setting; a list item is addressed by its index, name or kind."""
    path: list[str | int] = []
    at = values
    for part in parts:
        if isinstance(at, list):
            labels = [item.get("name") or item.get("kind") for item in at if isinstance(item, dict)]
            if part.isdecimal() and int(part) < len(at):
                index = int(part)
            elif part in labels:
                if labels.count(part) > 1:
                    return (), f"{part!r} is used twice; give each entry a name, or use its number"
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
        inner = at[int(part)] if isinstance(at, list) else at.get(part)
        is_section = path[0] in _SECTIONS and (depth == 0 or (depth == 1 and isinstance(at, list)))
        if is_section and inner is not None and not _accepts(inner, path[depth + 1]):
            # Left unchanged: the validation of the whole recipe says what is expected here.
            return
        if not isinstance(inner, dict | list):
            entry = _expand_short_form(inner, path[: depth + 1])
            if entry is None:
                return
            inner = at[part] = entry
        at = inner
    at[path[-1]] = value


def _expand_short_form(short: Any, path: SettingPath) -> dict[str, Any] | None:
    """Expand `optimizer: adam` or `source: a.csv` to a mapping; None if the value names nothing."""
    if not isinstance(short, str):
        return {}
    if path[:2] != _SOURCE:
        return {"kind": short}
    try:
        return parse_source(short)
    except ValueError:
        return None


def _accepts(value: Any, part: str | int) -> bool:
    """Whether a key or a list index can be set in a value."""
    return isinstance(value, dict) or (isinstance(value, list) and isinstance(part, int))
