"""Defaults that another setting changes: they replace what a shipped recipe wrote, not what a user wrote."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from kdcli.custom_kinds import CustomKinds
from kdcli.errors import Fault
from kdcli.recipe.document import Document, SettingPath, join_path
from kdcli.recipe.entry_classes import find_class
from kdcli.recipe.origins import Origins
from kdcli.spec import Spec

# The keys that determine the class of an entry.
_TYPE_KEYS = ("kind", "name")


def apply_changed_defaults(document: Document, origins: Origins, written: Any, custom: CustomKinds) -> None:
    """Apply the defaults that settings from outside change for other options of the same entry.

    `standardize` changes the weight of `soft_targets`; `kind` changes most options of an entry. If a shipped
    recipe wrote the other option, its new default replaces it; if the user's own recipe wrote it, it stays.
    Either way a note is added to `origins.notes`.

    Args:
        document: with the settings applied; changed in place.
        origins: of the settings; receives the origins of the new defaults.
        written: the values as the recipe wrote them.
        custom: the kinds defined by `--code` files.
    """
    for entry in dict.fromkeys(path[:-1] for path in origins.overrides):
        old, new = _entry_at(written, entry), _entry_at(document.values, entry)
        old_class = find_class(entry, written, custom)
        new_class = find_class(entry, document.values, custom)
        if old_class is None or new_class is None or not old or not new:
            continue
        old_defaults, defaults = old_class.defaults(old), new_class.defaults(new)
        for name, default in defaults.items():
            path = (*entry, name)
            changed = name in old_defaults and old_defaults[name] != default
            if not changed or name in _TYPE_KEYS or name not in old or name not in new or origins.option_for(path):
                continue
            value = new[name]
            option = _find_cause(origins, entry, new_class, old, new)
            if document.shipped:
                del new[name]
                origins.implied_defaults[path] = f"default with {option}"
            if value != default:
                origins.notes.append(_describe_default(document, path, value, default, option))


def suggest_whole_entry(
    document: Document, origins: Origins, custom: CustomKinds, faults: Sequence[Fault]
) -> str | None:
    """Suggest the `--set` that replaces a whole entry, if its kind was set and its other options do not fit.

    Args:
        document: with the settings applied.
        origins: of the settings.
        custom: the kinds defined by `--code` files.
        faults: the faults of the recipe.
    """
    for path in origins.overrides:
        entry = path[:-1]
        unfit = any(fault.setting.startswith(f"{join_path(entry)}.") for fault in faults)
        known = entry and path[-1] in _TYPE_KEYS and unfit
        member = find_class(entry, document.values, custom) if known else None
        if member is not None:
            values = _complete_entry(member, _entry_at(document.values, entry))
            text = yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=float("inf"))
            return f"--set {shlex.quote(f'{join_path(entry)}={text.strip()}')}"
    return None


def _complete_entry(member: type[Spec], entry: dict[str, Any]) -> dict[str, Any]:
    """Fill every option of a class: from the entry, else its default, else an example if it is required."""
    values: dict[str, Any] = {}
    for name, field in member.model_fields.items():
        key = field.alias or name
        default = (field.examples or ["..."])[0] if field.is_required() else member.defaults(entry).get(key)
        value = default if key in _TYPE_KEYS else entry.get(key, default)
        if value is not None:
            values[key] = list(value) if isinstance(value, tuple) else value
    return values


def _entry_at(values: Any, path: SettingPath) -> dict[str, Any]:
    """Return the mapping at a path; a word stands for its kind."""
    at = values
    for part in path:
        if isinstance(at, dict):
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        else:
            return {}
    return {"kind": at} if isinstance(at, str) else at if isinstance(at, dict) else {}


def _find_cause(
    origins: Origins, entry: SettingPath, member: type[Spec], old: Mapping[str, Any], new: Mapping[str, Any]
) -> str:
    """Find the setting of an entry that changes its defaults."""
    settings = {str(path[-1]): option for path, option in origins.overrides.items() if path[:-1] == entry}
    for key, option in settings.items():
        if key in _TYPE_KEYS or member.defaults({**new, key: old.get(key)}) != member.defaults(new):
            return option
    return next(iter(settings.values()))


def _describe_default(document: Document, path: SettingPath, value: Any, default: Any, option: str) -> str:
    setting, written, usual = join_path(path), _format_value(value), _format_value(default)
    if document.shipped:
        return f"{setting} is {usual}, the default with {option}; {document.source} has {written}"
    position = document.key_positions.get(path)
    source = f"{document.source}:{position[0]}" if position else document.source
    return f"{setting} stays {written}, as set in {source}; the default with {option} is {usual}"


def _format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
