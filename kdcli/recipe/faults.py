"""What pydantic found, said to a person: the setting, the place, the words, a suggestion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from kdcli.custom_kinds import NO_CUSTOM, CustomKinds, find_specs
from kdcli.errors import Fault, did_you_mean
from kdcli.losses import LOSS_KINDS, explain_alias
from kdcli.recipe.document import Document, SettingPath, join_path
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.spec import Spec

_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}
# By the tags of settings that take values of several types.
_TAGS = {
    "word": "a word",
    "text": "a word",
    "count": "a whole number",
    "share": "a share such as 0.1",
    "number": "a number",
    "numbers": "a list",
    "list": "a list",
    "mapping": "a mapping",
    "change": "a mapping",
}
# What other tools call our keys.
_FOREIGN = {"lr": "learning_rate", "T": "temperature", "alpha": "weight", "bs": "batch_size"}
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a word",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}


def convert_faults(
    error: ValidationError, document: Document, origins: Origins, custom: CustomKinds = NO_CUSTOM
) -> list[Fault]:
    """Every fault of a validation, in the order of the text."""
    details = error.errors(include_url=False)
    paths = [_path_in(detail["loc"], document.values) for detail in details]
    faults = []
    for detail, path in zip(details, paths, strict=True):
        # A list whose items failed is reported as too short as well: the items are the cause.
        inner = any(len(other) > len(path) and other[: len(path)] == path for other in paths)
        if detail["type"] == "too_short" and inner:
            continue
        faults.append(_fault(detail, path, document, origins, custom))
    return faults


def _path_in(location: tuple[str | int, ...], values: Any) -> SettingPath:
    """The location without the union tags that pydantic writes into it."""
    path: list[str | int] = []
    at = values
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(at, dict) and part in at:
            at = at[part]
        elif isinstance(at, list | tuple) and isinstance(part, int) and part < len(at):
            at = at[part]
        elif not (last and isinstance(at, dict) and not _is_tag(part, at)):
            continue
        path.append(part)
    return tuple(path)


def _is_tag(part: Any, at: dict[str, Any]) -> bool:
    return part in (at.get("kind"), at.get("name"), "change", "number", "mapping", "list", "word", "text")


def _fault(detail: Any, path: SettingPath, document: Document, origins: Origins, own: CustomKinds) -> Fault:
    message, suggestion = _words(detail, path, document, own)
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found") and not _is_alternative(detail):
        path = (*path, _discriminator(detail))
    origin = origins.given(path)
    if origin:
        return Fault(join_path(path), message, suggestion, origin=origin.split(" ")[0])
    at_key = detail["type"] in ("extra_forbidden", "missing", "union_tag_not_found")
    place = _place(path, document, at_key=at_key)
    if place is None:
        return Fault(join_path(path), message, suggestion)
    return Fault(join_path(path), message, suggestion, *place, document.lines[place[0] - 1])


def _place(path: SettingPath, document: Document, *, at_key: bool) -> tuple[int, int] | None:
    """Where the path, or the nearest thing around it, stands in the text."""
    first, second = (document.places, document.value_places)
    if not at_key:
        first, second = second, first
    for length in range(len(path), 0, -1):
        place = first.get(path[:length]) or second.get(path[:length])
        if place:
            return place
    return None


def _discriminator(detail: Any) -> str:
    return detail["ctx"]["discriminator"].strip("'").removesuffix("()")


def _is_alternative(detail: Any) -> bool:
    """Whether a setting takes values of several types, told apart by a function: its tags are `_TAGS`."""
    return detail["ctx"]["discriminator"].endswith("()")


def _words(detail: Any, path: SettingPath, document: Document, own: CustomKinds) -> tuple[str, str | None]:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    if kind == "extra_forbidden":
        known = known_keys(path[:-1], document.values, own)
        key = str(path[-1])
        return "unknown key", _elsewhere(key, known) or _suggest(key, known)
    if kind == "missing":
        tuples = path and isinstance(value, list | tuple)
        return (f"has too few entries, got {_short(value)}" if tuples else "is missing"), None
    if kind == "union_tag_not_found":
        return f"a mapping needs `{_discriminator(detail)}:`, and this one has none", None
    if kind == "union_tag_invalid":
        known, name = [word.strip(" '") for word in context["expected_tags"].split(",")], str(context["tag"])
        if _is_alternative(detail):
            taken = dict.fromkeys(_TAGS.get(tag, f"a {tag}") for tag in known)
            return f"must be {' or '.join(taken)}, got {_short(value)}", None
        suggestion = _loss_suggestion(name, known) if "losses" in path else _suggest(name, known)
        return f"unknown {_discriminator(detail)} {context['tag']!r}", suggestion
    if kind == "literal_error":
        known = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        return f"must be {' | '.join(known)}, got {_short(value)}", did_you_mean(str(value), known).strip() or None
    if kind in _BOUNDS:
        name, sign = _BOUNDS[kind]
        return f"must be {sign} {context[name]:.10g}, got {_short(value)}", None
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, got {_short(value)}", _written_out(path, value)
    if kind == "too_short":
        return f"must have at least {_entries(context['min_length'])}, got {_short(value)}", None
    if kind == "too_long":
        return f"must have at most {_entries(context['max_length'])}, got {_short(value)}", None
    message = detail["msg"].removeprefix("Value error, ")
    return message, None


def _elsewhere(key: str, known: Iterable[str]) -> str | None:
    """The key that other tools call so, where it can be set here or one level below."""
    name = _FOREIGN.get(key, key)
    if name in known:
        return f"did you mean {name!r}?"
    if name == "learning_rate" and "optimizer" in known:
        return "did you mean 'optimizer.learning_rate'?"
    return None


def _written_out(path: SettingPath, value: Any) -> str | None:
    """What a word alone was probably meant to be: the mapping that it is short for."""
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    if not isinstance(value, str) or name not in ("losses", "augment", "model", "teacher", "student"):
        return None
    if name in ("losses", "augment"):
        entry = f"{{kind: {value}}}"
        return f"write {entry}" if isinstance(path[-1], int) else f"write [{entry}]"
    entry = f"{{kind: file, path: {value}}}"
    return f"write {entry}" if name == "model" else f"write {{model: {entry}}}"


def _entries(count: int) -> str:
    return f"{count} entr{'y' if count == 1 else 'ies'}"


def _suggest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    return did_you_mean(name, known).strip() or f"known: {', '.join(known)}"


def _loss_suggestion(name: str, known: Iterable[str]) -> str:
    """The kind that papers call so, or the nearest one: all of them are too many for a line."""
    return explain_alias(name, LOSS_KINDS) or did_you_mean(name, known).strip() or "kd losses ls lists them"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else f"{value!r:.60}" if isinstance(value, str) else f"{value}"[:60]


def known_keys(path: SettingPath, values: Any, custom: CustomKinds = NO_CUSTOM) -> list[str]:
    """The keys that the recipe accepts at a path, given what stands there."""
    found = find_class(path, values, custom)
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def find_class(path: SettingPath, values: Any, custom: CustomKinds = NO_CUSTOM) -> type[Spec] | None:
    """The class of what stands at a path of a recipe, or None where that cannot be told."""
    found: Any = Recipe
    at = values
    for part in path:
        at = _inside(at, part)
        if isinstance(part, str):
            named = [f for n, f in found.model_fields.items() if part in (n, f.alias)]
            found = named[0].annotation if named else None
        found = _member_for(found, at, custom)
        if found is None:
            return None
    return found if isinstance(found, type) else None


def _inside(values: Any, part: Any) -> Any:
    if isinstance(values, list):
        return values[part] if isinstance(part, int) and part < len(values) else None
    return values.get(part) if isinstance(values, dict) else None


def _member_for(annotation: Any, value: Any, own: CustomKinds) -> type[Spec] | Any:
    """The Spec inside an annotation that a value would become; containers are handed on for their items."""
    members = list(dict.fromkeys(find_specs(annotation, own)))
    if isinstance(value, list):
        return annotation
    if not isinstance(value, dict):
        return None
    for key in ("name", "kind"):
        for member in members:
            field = member.model_fields.get(key)
            if field is not None and value.get(key) is not None and field.default == value[key]:
                return member
    # A mapping without a kind is the one that has a key of that name: {train: D, test: D}.
    if len(members) > 1 and "kind" not in value:
        members = [member for member in members if member.model_fields.keys() & value.keys()]
    return members[0] if len(members) == 1 else None
