"""Defaults that a setting changes: what a shipped recipe wrote for them gives way, what a user wrote stays."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from kdcli.custom_kinds import CustomKinds
from kdcli.errors import Fault
from kdcli.recipe.document import Document, SettingPath, join_path
from kdcli.recipe.faults import find_class
from kdcli.recipe.origins import Origins
from kdcli.spec import Spec

# The keys that say of which class an entry is.
_TYPE = ("kind", "name")


def apply_changed_defaults(document: Document, origins: Origins, before: Any, custom: CustomKinds) -> None:
    """Follow the settings from outside that change the default of another option of the same entry.

    `standardize` changes the weight of `soft_targets`, `kind` most options of an entry. Where a shipped recipe
    wrote the other option, its new default holds instead; where the user's own recipe wrote it, that stays. Both
    are told in `origins.notes`.

    Args:
        document: with the settings in it; changed in place.
        origins: of the settings; told whose default holds.
        before: the values as the recipe wrote them.
        custom: the kinds of the user's own files.
    """
    for entry in dict.fromkeys(path[:-1] for path in origins.overrides):
        old, new = _entry(before, entry), _entry(document.values, entry)
        had, has = find_class(entry, before, custom), find_class(entry, document.values, custom)
        if had is None or has is None or not old or not new:
            continue
        usual, defaults = had.defaults(old), has.defaults(new)
        changed = [name for name in defaults if name in usual and usual[name] != defaults[name]]
        for name in changed:
            path = (*entry, name)
            if name in _TYPE or name not in old or name not in new or origins.given(path):
                continue
            written, default = new[name], defaults[name]
            option = _cause(origins, entry, has, old, new)
            if document.shipped:
                del new[name]
                origins.implied_defaults[path] = f"default with {option}"
            if document.shipped and written != default:
                origins.notes.append(
                    f"{join_path(path)} is {_shown(default)}, the default with {option}; "
                    f"{document.source} has {_shown(written)}"
                )
            elif written != default:
                origins.notes.append(
                    f"{join_path(path)} stays {_shown(written)}, as {_place(document, path)} has it; "
                    f"the default with {option} is {_shown(default)}"
                )


def suggest_whole_entry(
    document: Document, origins: Origins, custom: CustomKinds, faults: Sequence[Fault]
) -> str | None:
    """The `--set` that gives a whole entry, where its type was set and what stands beside it does not fit.

    Args:
        document: with the settings in it.
        origins: of the settings.
        custom: the kinds of the user's own files.
        faults: what was found in the recipe.
    """
    for path in origins.overrides:
        entry = path[:-1]
        unfit = any(fault.setting.startswith(f"{join_path(entry)}.") for fault in faults)
        member = find_class(entry, document.values, custom) if entry and path[-1] in _TYPE and unfit else None
        if member is not None:
            text = yaml.safe_dump(
                _whole(member, _entry(document.values, entry)),
                default_flow_style=True,
                sort_keys=False,
                width=float("inf"),
            )
            return f"--set {shlex.quote(f'{join_path(entry)}={text.strip()}')}"
    return None


def _whole(member: type[Spec], entry: dict[str, Any]) -> dict[str, Any]:
    """Every option of a class: as the entry has it, by default, or an example where there must be one."""
    found: dict[str, Any] = {}
    for name, field in member.model_fields.items():
        key = field.alias or name
        default = (field.examples or ["..."])[0] if field.is_required() else member.defaults(entry).get(key)
        value = default if key in _TYPE else entry.get(key, default)
        if value is not None:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found


def _entry(values: Any, path: SettingPath) -> dict[str, Any]:
    """The mapping at a path; a word is a kind."""
    at = values
    for part in path:
        if isinstance(at, dict):
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        else:
            return {}
    return {"kind": at} if isinstance(at, str) else at if isinstance(at, dict) else {}


def _cause(origins: Origins, entry: SettingPath, member: type[Spec], old: Any, new: Any) -> str:
    """The setting of an entry that changes its defaults."""
    settings = {str(path[-1]): option for path, option in origins.overrides.items() if path[:-1] == entry}
    for key, option in settings.items():
        if key in _TYPE or member.defaults({**new, key: old.get(key)}) != member.defaults(new):
            return option
    return next(iter(settings.values()))


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _place(document: Document, path: SettingPath) -> str:
    place = document.places.get(path)
    return f"{document.source}:{place[0]}" if place else document.source
