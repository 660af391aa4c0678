"""YAML as a recipe may use it: plain values, every one with its line and column.

YAML 1.2 where it bites (`1e-3` is a number, `on` and `no` are words). Aliases, tags, duplicate keys,
several documents and nesting past 32 are faults, because each hides what a recipe says.
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
        source: what messages call it: a path, a shipped name, `-`.
        values: nested dictionaries and lists.
        places: (line, column) from 1 of every value's key or list item, by path.
        lines: the text's lines.
        faults: what was wrong with the YAML itself.
        shipped: whether it comes with kd, so that the user wrote none of it.
    """

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[SettingPath, tuple[int, int]] = field(default_factory=dict)
    value_places: dict[SettingPath, tuple[int, int]] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    faults: list[Fault] = field(default_factory=list)
    shipped: bool = False

    def fault(self, place: tuple[int, int], message: str, setting: str = "") -> None:
        """Record a fault at a (line, column)."""
        line, column = place
        excerpt = self.lines[line - 1] if line <= len(self.lines) else None
        self.faults.append(Fault(setting, message, None, line, column, excerpt))


def read_document(text: str, source: str) -> Document:
    """Read YAML text strictly; structural faults are collected in the document.

    Raises:
        RecipeError: the text is no YAML at all, or no mapping.
    """
    document = Document(source, lines=tuple(text.splitlines()))
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(source, (Fault("", f"{len(text)} characters; a recipe has at most {MAX_CHARACTERS}"),))
    try:
        value = _Reader(document, yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        document.fault(place, f"not YAML: {error.problem or error.context}")
        raise RecipeError(source, tuple(document.faults)) from None
    except yaml.YAMLError as error:
        raise RecipeError(source, (Fault("", f"not YAML: {str(error).splitlines()[0]}"),)) from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        document.fault((1, 1), f"a recipe is a mapping of sections, got {value!r:.40}")
        raise RecipeError(source, tuple(document.faults))
    document.values = value
    return document


def parse_scalar(text: str) -> Any:
    """A plain (unquoted) scalar by the core schema of YAML 1.2."""
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


class _Reader:
    """Builds values from the parser's events, so that an alias is seen and never expanded."""

    def __init__(self, document: Document, events: Iterator[yaml.Event]) -> None:
        self.into = document
        self.events = events

    def document(self) -> Any:
        value, seen = None, 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                seen += 1
                if seen == 2:
                    self.into.fault(_place(event), "a second document; a recipe is one")
                read = self.value(next(self.events), (), 0)
                value = read if seen == 1 else value
        return value

    def value(self, event: Any, path: SettingPath, depth: int) -> Any:
        self.into.value_places[path] = _place(event)
        if isinstance(event, yaml.AliasEvent):
            self.into.fault(_place(event), "aliases (*) are not allowed; write the value out", join_path(path))
            return None
        if event.anchor:
            self.into.fault(_place(event), "anchors (&) are not allowed", join_path(path))
        if event.tag is not None:
            self.into.fault(_place(event), "tags (!) are not allowed", join_path(path))
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and event.style is None
            return parse_scalar(event.value) if plain else event.value
        if depth == MAX_NESTING:
            self.into.fault(_place(event), f"nested deeper than {MAX_NESTING}", join_path(path))
            # Reading on would recurse, and tell nobody anything more.
            raise RecipeError(self.into.source, tuple(self.into.faults))
        read = self.mapping if isinstance(event, yaml.MappingStartEvent) else self.sequence
        return read(path, depth + 1)

    def mapping(self, path: SettingPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self.into.fault(_place(event), "a key must be a word", join_path(path))
                self.value(event, (*path, "?"), depth)
                self.value(next(self.events), (*path, "?"), depth)
                continue
            inside = (*path, event.value)
            self.key(event, inside, result)
            self.into.places.setdefault(inside, _place(event))
            value = self.value(next(self.events), inside, depth)
            result.setdefault(event.value, value)
        return result

    def key(self, event: yaml.ScalarEvent, path: SettingPath, before: dict[str, Any]) -> None:
        """Note what is wrong with a key."""
        if event.anchor:
            self.into.fault(_place(event), "anchors (&) are not allowed", join_path(path))
        elif event.tag is not None:
            self.into.fault(_place(event), "tags (!) are not allowed", join_path(path))
        elif event.value in before:
            self.into.fault(_place(event), f"the key {event.value!r} appears twice", join_path(path))

    def sequence(self, path: SettingPath, depth: int) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            inside = (*path, len(result))
            self.into.places[inside] = _place(event)
            result.append(self.value(event, inside, depth))
        return result


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def join_path(path: SettingPath) -> str:
    """`losses.1.weight`, as messages and `--set` write it."""
    return ".".join(str(part) for part in path)


def format_set_option(setting: str, value: Any) -> str:
    """`--set losses.0.weight=2` as it is typed in a shell."""
    return f"--set {shlex.quote(f'{setting}={_flow(value)}')}"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    plain = isinstance(value, str) and re.fullmatch(r"[^\W\d][\w./+-]*( [\w./+-]+)*|[./][\w./+-]*", value)
    return value if plain and parse_scalar(value) == value else json.dumps(value, ensure_ascii=False)


def iterate_settings(value: Any, path: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Every setting inside nested mappings and lists of mappings, with its path."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from iterate_settings(inner, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from iterate_settings(inner, (*path, number))
    else:
        yield path, value
