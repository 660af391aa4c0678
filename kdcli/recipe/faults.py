"""Converts the errors of pydantic into faults: setting, position, message and suggestion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from kdcli.custom_kinds import NO_CUSTOM, CustomKinds
from kdcli.errors import Fault, did_you_mean
from kdcli.losses import LOSS_KINDS, explain_alias
from kdcli.recipe.document import Document, SettingPath, join_path
from kdcli.recipe.entry_classes import list_known_keys
from kdcli.recipe.origins import Origins

_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}
# Values that a setting accepts, by the tags of settings with values of several types.
_TAGS = {
    "word": "a word",
    "text": "a word",
    "count": "a whole number",
    "fraction": "a fraction such as 0.1",
    "number": "a number",
    "numbers": "a list",
    "list": "a list",
    "mapping": "a mapping",
    "change": "a mapping",
}
# Names that other tools use for our keys.
_FOREIGN_KEYS = {"lr": "learning_rate", "T": "temperature", "alpha": "weight", "bs": "batch_size"}
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
    """Convert all errors of a validation, in the order of the text."""
    details = error.errors(include_url=False)
    paths = [_strip_tags(detail["loc"], document.values) for detail in details]
    faults = []
    for detail, path in zip(details, paths, strict=True):
        # A list with invalid items is also reported as too short: only the items are the cause.
        has_inner = any(len(other) > len(path) and other[: len(path)] == path for other in paths)
        if detail["type"] == "too_short" and has_inner:
            continue
        faults.append(_convert_fault(detail, path, document, origins, custom))
    return faults


def _strip_tags(location: tuple[str | int, ...], values: Any) -> SettingPath:
    """Remove the union tags that pydantic adds to a location."""
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


def _convert_fault(
    detail: Any, path: SettingPath, document: Document, origins: Origins, custom: CustomKinds
) -> Fault:
    message, suggestion = _describe(detail, path, document, custom)
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found") and not _has_types_as_tags(detail):
        path = (*path, _discriminator_of(detail))
    option = origins.option_for(path)
    if option:
        return Fault(join_path(path), message, suggestion=suggestion, origin=option.split(" ")[0])
    at_key = detail["type"] in ("extra_forbidden", "missing", "union_tag_not_found")
    position = _find_position(path, document, at_key=at_key)
    return document.make_fault(join_path(path), message, position=position, suggestion=suggestion)


def _find_position(path: SettingPath, document: Document, *, at_key: bool) -> tuple[int, int] | None:
    """Find the position of a setting, or of the closest section around it that is in the text."""
    first, second = document.key_positions, document.value_positions
    if not at_key:
        first, second = second, first
    for length in range(len(path), 0, -1):
        position = first.get(path[:length]) or second.get(path[:length])
        if position:
            return position
    return None


def _discriminator_of(detail: Any) -> str:
    return detail["ctx"]["discriminator"].strip("'").removesuffix("()")


def _has_types_as_tags(detail: Any) -> bool:
    """Whether the setting accepts values of several types, which a function tells apart by the `_TAGS`."""
    return detail["ctx"]["discriminator"].endswith("()")


def _describe(detail: Any, path: SettingPath, document: Document, custom: CustomKinds) -> tuple[str, str | None]:
    """Return the message and the suggestion for one error."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    if kind == "extra_forbidden":
        known = list_known_keys(path[:-1], document.values, custom)
        key = str(path[-1])
        return "unknown key", _translate_key(key, known) or _suggest_name(key, known)
    if kind == "missing":
        is_tuple = path and isinstance(value, list | tuple)
        return (f"has too few entries, got {_abbreviate(value)}" if is_tuple else "is missing"), None
    if kind == "union_tag_not_found":
        return f"the mapping needs a `{_discriminator_of(detail)}:`", None
    if kind == "union_tag_invalid":
        known, name = [word.strip(" '") for word in context["expected_tags"].split(",")], str(context["tag"])
        if _has_types_as_tags(detail):
            accepted = dict.fromkeys(_TAGS.get(tag, f"a {tag}") for tag in known)
            return f"must be {' or '.join(accepted)}, got {_abbreviate(value)}", None
        suggestion = _suggest_loss(name, known) if "losses" in path else _suggest_name(name, known)
        return f"unknown {_discriminator_of(detail)} {context['tag']!r}", suggestion
    if kind == "literal_error":
        known = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        suggestion = did_you_mean(str(value), known).strip()
        return f"must be {' | '.join(known)}, got {_abbreviate(value)}", suggestion or None
    if kind in _BOUNDS:
        name, sign = _BOUNDS[kind]
        return f"must be {sign} {context[name]:.10g}, got {_abbreviate(value)}", None
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, got {_abbreviate(value)}", _suggest_mapping(path, value)
    if kind == "too_short":
        return f"must have at least {_count_entries(context['min_length'])}, got {_abbreviate(value)}", None
    if kind == "too_long":
        return f"must have at most {_count_entries(context['max_length'])}, got {_abbreviate(value)}", None
    message = detail["msg"].removeprefix("Value error, ")
    return message, None


def _translate_key(key: str, known: Iterable[str]) -> str | None:
    """Suggest our key for one of another tool, if it can be set here or one level below."""
    name = _FOREIGN_KEYS.get(key, key)
    if name in known:
        return f"did you mean {name!r}?"
    if name == "learning_rate" and "optimizer" in known:
        return "did you mean 'optimizer.learning_rate'?"
    return None


def _suggest_mapping(path: SettingPath, value: Any) -> str | None:
    """Suggest the mapping that a single word was probably meant to be."""
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    if not isinstance(value, str) or name not in ("losses", "augment", "model", "teacher", "student"):
        return None
    if name in ("losses", "augment"):
        entry = f"{{kind: {value}}}"
        return f"write {entry}" if isinstance(path[-1], int) else f"write [{entry}]"
    entry = f"{{kind: file, path: {value}}}"
    return f"write {entry}" if name == "model" else f"write {{model: {entry}}}"


def _suggest_name(name: str, known: Iterable[str]) -> str:
    known = list(known)
    return did_you_mean(name, known).strip() or f"known: {', '.join(known)}"


def _suggest_loss(name: str, known: Iterable[str]) -> str:
    """Suggest the kind that papers call by this name, or the closest one; there are too many to list."""
    return explain_alias(name, LOSS_KINDS) or did_you_mean(name, known).strip() or "kd losses ls lists them"


def _count_entries(count: int) -> str:
    return f"{count} entr{'y' if count == 1 else 'ies'}"


def _abbreviate(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else f"{value!r:.60}" if isinstance(value, str) else f"{value}"[:60]
