"""The class of a recipe entry, given its path and the values around it."""

from __future__ import annotations

from typing import Any

from kdcli.custom_kinds import NO_CUSTOM, CustomKinds, find_specs
from kdcli.recipe.document import SettingPath
from kdcli.recipe.sections import Recipe
from kdcli.spec import Spec


def find_class(path: SettingPath, values: Any, custom: CustomKinds = NO_CUSTOM) -> type[Spec] | None:
    """Return the class of the entry at a path, or None if it cannot be determined.

    Args:
        path: path of the entry.
        values: the values of the recipe.
        custom: the kinds defined by `--code` files.
    """
    found: Any = Recipe
    at = values
    for part in path:
        at = _child_at(at, part)
        if isinstance(part, str):
            fields = [field for name, field in found.model_fields.items() if part in (name, field.alias)]
            found = fields[0].annotation if fields else None
        found = _select_member(found, at, custom)
        if found is None:
            return None
    return found if isinstance(found, type) else None


def list_known_keys(path: SettingPath, values: Any, custom: CustomKinds = NO_CUSTOM) -> list[str]:
    """List the keys that the recipe accepts at a path."""
    found = find_class(path, values, custom)
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def _child_at(values: Any, part: Any) -> Any:
    if isinstance(values, list):
        return values[part] if isinstance(part, int) and part < len(values) else None
    return values.get(part) if isinstance(values, dict) else None


def _select_member(annotation: Any, value: Any, custom: CustomKinds) -> type[Spec] | Any:
    """Return the class in an annotation that a mapping selects; for a list, the annotation of its items."""
    members = list(dict.fromkeys(find_specs(annotation, custom)))
    if isinstance(value, list):
        return annotation
    if not isinstance(value, dict):
        return None
    for key in ("name", "kind"):
        for member in members:
            field = member.model_fields.get(key)
            if field is not None and value.get(key) is not None and field.default == value[key]:
                return member
    # A mapping without a kind belongs to the class that has one of its keys: {train: D, test: D}.
    if len(members) > 1 and "kind" not in value:
        members = [member for member in members if member.model_fields.keys() & value.keys()]
    return members[0] if len(members) == 1 else None
