"""The YAML subset of recipes: plain values, each with its line and column.

Scalars follow YAML 1.2: `1e-3` is a number, `on` and `no` are words. Aliases, tags, duplicate keys, multiple
documents and nesting past 32 levels are faults, because each of them hides what a recipe says.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdcli.errors import Fault, RecipeError

MAX_NESTING = 32
MAX_CHARACTERS = 1_000_000
SettingPath = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+$")
_BASED = {"0o": 8, "0x": 16}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass
class Document:
    """A recipe as it was written.

    Args:
        source: the name that messages use: a path, a shipped name or `-`.
        values: nested dictionaries and lists.
        key_positions: (line, column), from 1, of the key or list item of each setting.
        value_positions: (line, column), from 1, of the value of each setting.
        lines: lines of the text.
        faults: faults of the YAML itself.
        shipped: whether the recipe is shipped with kd, so that the user wrote none of it.
    """

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    key_positions: dict[SettingPath, tuple[int, int]] = field(default_factory=dict)
    value_positions: dict[SettingPath, tuple[int, int]] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    faults: list[Fault] = field(default_factory=list)
    shipped: bool = False

    def add_fault(self, position: tuple[int, int], message: str, setting: str = "") -> None:
        """Record a fault at a (line, column)."""
        self.faults.append(self.make_fault(setting, message, position=position))

    def make_fault(
        self, setting: str, message: str, *, position: tuple[int, int] | None, suggestion: str | None = None
    ) -> Fault:
        """Make a fault with the line of the text at a (line, column), if it has one."""
        if position is None:
            return Fault(setting, message, suggestion=suggestion)
        line, column = position
        excerpt = self.lines[line - 1] if line <= len(self.lines) else None
        return Fault(setting, message, suggestion=suggestion, line=line, column=column, excerpt=excerpt)


def read_document(text: str, source: str) -> Document:
    """Parse YAML text strictly; faults of its structure are collected in the document.

    Raises:
        RecipeError: the text is not YAML, or not a mapping.
    """
    document = Document(source, lines=tuple(text.splitlines()))
    if len(text) > MAX_CHARACTERS:
        message = f"the text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are allowed"
        raise RecipeError(source, (Fault("", message),))
    try:
        value = _Parser(document, yaml.parse(text, Loader=yaml.SafeLoader)).read_document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        document.add_fault(position, f"not YAML: {error.problem or error.context}")
        raise RecipeError(source, tuple(document.faults)) from None
    except yaml.YAMLError as error:
        raise RecipeError(source, (Fault("", f"not YAML: {str(error).splitlines()[0]}"),)) from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        document.add_fault((1, 1), f"a recipe must be a mapping of sections, got {value!r:.40}")
        raise RecipeError(source, tuple(document.faults))
    document.values = value
    return document


def parse_scalar(text: str) -> Any:
    """Parse a plain (unquoted) scalar by the core schema of YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text) if len(text) < 400 else text
    if text[:2] in _BASED and text[2:].isalnum() and len(text) < 400:
        try:
            return int(text[2:], _BASED[text[:2]])
        except ValueError:
            return text
    if _FLOAT.match(text):
        return float(text)
    if re.match(r"[-+]?\.(inf|Inf|INF)$", text):
        return float(text.replace(".", ""))
    return float("nan") if text in (".nan", ".NaN", ".NAN") else text


class _Parser:
    """Builds values from YAML events, so that aliases are detected and never expanded."""

    def __init__(self, document: Document, events: Iterator[yaml.Event]) -> None:
        self.document = document
        self.events = events

    def read_document(self) -> Any:
        value, count = None, 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                count += 1
                if count == 2:
                    self.refuse(event, "a second YAML document; a recipe is a single document")
                read = self.read_value(next(self.events), (), 0)
                value = read if count == 1 else value
        return value

    def read_value(self, event: Any, path: SettingPath, depth: int) -> Any:
        self.document.value_positions[path] = _position_of(event)
        if isinstance(event, yaml.AliasEvent):
            self.refuse(event, "aliases (*) are not allowed; write the value out", path)
            return None
        if event.anchor:
            self.refuse(event, "anchors (&) are not allowed", path)
        if event.tag is not None:
            self.refuse(event, "tags (!) are not allowed", path)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and event.style is None
            return parse_scalar(event.value) if plain else event.value
        if depth == MAX_NESTING:
            self.refuse(event, f"nested more than {MAX_NESTING} levels deep", path)
            # Reading further would recurse without finding anything new.
            raise RecipeError(self.document.source, tuple(self.document.faults))
        read = self.read_mapping if isinstance(event, yaml.MappingStartEvent) else self.read_sequence
        return read(path, depth + 1)

    def read_mapping(self, path: SettingPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(event, "a key must be a word", path)
                self.read_value(event, (*path, "?"), depth)
                self.read_value(next(self.events), (*path, "?"), depth)
                continue
            inner = (*path, event.value)
            self.check_key(event, inner, result)
            self.document.key_positions.setdefault(inner, _position_of(event))
            value = self.read_value(next(self.events), inner, depth)
            result.setdefault(event.value, value)
        return result

    def check_key(self, event: yaml.ScalarEvent, path: SettingPath, earlier: dict[str, Any]) -> None:
        """Record the faults of a key."""
        if event.anchor:
            self.refuse(event, "anchors (&) are not allowed", path)
        elif event.tag is not None:
            self.refuse(event, "tags (!) are not allowed", path)
        elif event.value in earlier:
            self.refuse(event, f"the key {event.value!r} appears twice", path)

    def refuse(self, event: yaml.Event, message: str, path: SettingPath = ()) -> None:
        self.document.add_fault(_position_of(event), message, join_path(path))

    def read_sequence(self, path: SettingPath, depth: int) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            inner = (*path, len(result))
            self.document.key_positions[inner] = _position_of(event)
            result.append(self.read_value(event, inner, depth))
        return result


def _position_of(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def join_path(path: SettingPath) -> str:
    """Write a path as messages and `--set` do: `losses.1.weight`."""
    return ".".join(str(part) for part in path)


def format_set_option(setting: str, value: Any) -> str:
    """Write `--set losses.0.weight=2`, quoted for a shell."""
    return f"--set {shlex.quote(f'{setting}={_format_flow(value)}')}"


def _format_flow(value: Any) -> str:
    """Write a value as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_format_flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_format_flow, value))}]"
    plain = isinstance(value, str) and re.fullmatch(r"[^\W\d][\w./+-]*( [\w./+-]+)*|[./][\w./+-]*", value)
    return value if plain and parse_scalar(value) == value else json.dumps(value, ensure_ascii=False)


def iterate_settings(value: Any, path: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Iterate over the settings in nested mappings and lists of mappings, with their paths."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from iterate_settings(inner, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from iterate_settings(inner, (*path, number))
    else:
        yield path, value
