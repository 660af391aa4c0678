"""The description of a loss kind, from its class variables, options and docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdcli.catalogue.conditions import describe_pairing, list_needs, list_refusals
from kdcli.custom_kinds import kind_of
from kdcli.loss import FeatureLoss, Loss

# The families of the catalogue, in order.
OUTPUT_FAMILY, FEATURE_FAMILY, RELATION_FAMILY = "outputs", "features", "relations"
WEIGHT_FAMILY, MEMORY_FAMILY = "features, with weights of their own", "with a memory or an opponent"
_SECTION = re.compile(r"(Shapes|Args|Example|Raises|Returns):")


@dataclass(frozen=True)
class Option:
    """One option of a kind.

    Args:
        name: name in recipes.
        type: allowed values, in words.
        default: default as JSON; None without one.
        meaning: explanation from the docstring.
        required: whether it has no default.
    """

    name: str
    type: str
    default: Any
    meaning: str
    required: bool = False


@dataclass(frozen=True)
class Description:
    """The description of one kind of loss.

    Args:
        kind: name in recipes.
        known_as: names in papers and other tools.
        paper: authors, year and number.
        formula: first line of the docstring.
        text: rest of the docstring before the shapes.
        shapes: shapes of the arguments and the result.
        family: family in the catalogue.
        needs: what the kind needs, in words: labels, features, ...
        refuses: conditions under which a run is refused, one phrase each.
        pairing: how layers are chosen when a recipe names none; empty for a loss on outputs.
        options: all options except `kind` and `name`.
        notes: differences from other methods, one line each.
    """

    kind: str
    known_as: str
    paper: str
    formula: str
    text: str
    shapes: str
    family: str
    needs: tuple[str, ...]
    refuses: tuple[str, ...]
    pairing: str
    options: tuple[Option, ...]
    notes: tuple[str, ...]

    @property
    def year(self) -> str:
        """The paper's year; empty without a paper."""
        found = re.search(r"\b(19|20)\d\d\b", self.paper)
        return found.group() if found else ""

    @property
    def weight(self) -> float:
        """The default weight."""
        return next(option.default for option in self.options if option.name == "weight")

    @property
    def entry(self) -> str:
        """An entry for a recipe."""
        required = "".join(f", {option.name}: ..." for option in self.options if option.required)
        return f"losses: [{{kind: {self.kind}, weight: {self.weight:g}{required}}}]"


def describe_kind(member: type[Loss]) -> Description:
    """Describe a kind."""
    sections = split_docstring(member)
    formula, _, text = sections[""].partition("\n")
    return Description(
        kind=kind_of(member),
        known_as=member.known_as,
        paper=member.paper,
        formula=formula,
        text=text.strip(),
        shapes=" ".join(sections.get("Shapes", member.shape_text).split()),
        family=_find_family(member),
        needs=list_needs(member),
        refuses=list_refusals(member),
        pairing=describe_pairing(member),
        options=tuple(_list_options(member)),
        notes=member.notes,
    )


def split_docstring(member: type[Any]) -> dict[str, str]:
    """Split a class's own docstring into its sections by heading; the text before them has the key ""."""
    found, heading = {"": ""}, ""
    for line in inspect.cleandoc(member.__doc__ or member.__name__).splitlines():
        match = _SECTION.match(line)
        if match:
            heading, line = match[1], line.removeprefix(match[0]).strip()
        found[heading] = f"{found.get(heading, '')}{line}\n"
    return {name: text.strip("\n") for name, text in found.items()}


def _find_family(member: type[Loss]) -> str:
    if member.keeps:
        return MEMORY_FAMILY
    if not issubclass(member, FeatureLoss):
        return OUTPUT_FAMILY
    if member.projects or member.build is not Loss.build:
        return WEIGHT_FAMILY
    return RELATION_FAMILY if member.whole_batch else FEATURE_FAMILY


def _list_options(member: type[Loss]) -> Iterator[Option]:
    meanings = _find_meanings(member)
    schema = member.model_json_schema(by_alias=True)
    for name, field in member.model_fields.items():
        if name in ("kind", "name"):
            continue
        written = field.alias or name
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        plain = list(default) if isinstance(default, tuple) else default
        words = _describe_type(schema["properties"][written])
        yield Option(written, words, plain, meanings.get(name, ""), field.is_required())


def _find_meanings(member: type[Any]) -> dict[str, str]:
    """Explanations of the options from the docstrings of a class and its parents; the class takes precedence."""
    found: dict[str, str] = {}
    for one in member.__mro__:
        if isinstance(one, type) and issubclass(one, Loss):
            for names, text in _split_entries(split_docstring(one).get("Args", "")):
                for name in names.split(", "):
                    found.setdefault(name, text)
    return found


def _split_entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the entries `name: explanation`, with their indented continuation lines."""
    for entry in re.split(r"\n(?=\S)", inspect.cleandoc("\n" + text)):
        name, colon, meaning = entry.partition(":")
        if colon:
            yield name.strip(), " ".join(meaning.split())


def _describe_type(schema: Mapping[str, Any]) -> str:
    """Describe a JSON schema in a few words, for a table."""
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return " or ".join(dict.fromkeys(words for one in several if (words := _describe_type(one)) != "nothing"))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema:
        return f"a {schema['$ref'].rsplit('/', 1)[-1].lower()}"
    if schema.get("type") == "array":
        inner: Mapping[str, Any] = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
        return f"list ({_describe_type(inner)})" if inner else "list"
    names = {"integer": "whole number", "number": "number", "string": "word", "boolean": "true | false"}
    words = names.get(str(schema.get("type")), "nothing" if schema.get("type") == "null" else "mapping")
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([words, ", ".join(bounds)]).strip()
