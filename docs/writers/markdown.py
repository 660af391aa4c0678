"""Markdown tables, and generated blocks inside pages that people write."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence

# `<!-- generated: options distill -->`: the writer and its arguments.
BLOCK = re.compile(r"<!-- generated: (?P<call>[^>]+?) -->\n(?P<body>.*?)<!-- end of generated -->\n", re.DOTALL)
# Headings of a docstring.
_HEADING = re.compile(r"(Shapes|Args|Example|Raises|Returns):")

Writer = Callable[..., str]


def fill(page: str, writers: dict[str, Writer]) -> str:
    """A page with every generated block written anew.

    Args:
        page: the Markdown text.
        writers: the writer for the first word of a block's comment; further words are its arguments.
    """

    def written(match: re.Match[str]) -> str:
        name, *arguments = match["call"].split()
        body = writers[name](*arguments).strip("\n")
        return f"<!-- generated: {match['call']} -->\n{body}\n<!-- end of generated -->\n"

    return BLOCK.sub(written, page)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns without any text are left out."""
    filled = [number for number in range(len(heading)) if any(row[number] for row in rows)]
    lines = [[line[number] for number in filled] for line in (heading, ["---"] * len(heading), *rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def sections(docstring: str) -> dict[str, str]:
    """The parts of a docstring by heading (`Args`, `Raises`, ...); the text before them is under `""`."""
    found, heading = {"": ""}, ""
    for line in inspect.cleandoc(docstring).splitlines():
        match = _HEADING.match(line)
        if match:
            heading, line = match[1], line.removeprefix(match[0]).strip()
        found[heading] = f"{found.get(heading, '')}{line}\n"
    return {name: text.strip("\n") for name, text in found.items()}


def arguments(docstring: str) -> Iterator[tuple[str, str]]:
    """Each entry of a docstring's `Args`: its name or names, and the meaning on one line."""
    text = inspect.cleandoc("\n" + sections(docstring).get("Args", ""))
    for entry in re.split(r"\n(?=\S)", text):
        names, colon, meaning = entry.partition(":")
        if colon:
            yield " ".join(names.split()), " ".join(meaning.split())


def value_text(value: object) -> str:
    """A default as YAML has it; empty for none."""
    if value is None or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {value_text(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(one) for one in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
