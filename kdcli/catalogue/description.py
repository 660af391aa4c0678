"""What a kind of loss says of itself, for people: from its class variables, its settings and its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdcli.catalogue.conditions import describe_pairing, list_needs, list_refusals
from kdcli.custom_kinds import kind_of
from kdcli.loss import FeatureLoss, Loss

# The families of the catalogue, in its order.
OUTPUT_FAMILY, FEATURE_FAMILY, RELATION_FAMILY = "outputs", "features", "relations"
WEIGHT_FAMILY, MEMORY_FAMILY = "features, with weights of their own", "with a memory or an opponent"
_SECTION = re.compile(r"(Shapes|Args|Example|Raises|Returns):")


@dataclass(frozen=True)
class Option:
    """One setting of a kind.

    Args:
        name: as recipes write it.
        type: which values it takes, in words.
        default: as JSON has it; None where there is none.
        meaning: from the docstring.
        required: whether it has no default.
    """

    name: str
    type: str
    default: Any
    meaning: str
    required: bool = False


@dataclass(frozen=True)
class Description:
    """One kind of loss.

    Args:
        kind: its name in recipes.
        known_as: what papers and other tools call it.
        paper: authors, year and number.
        formula: the first line of its docstring.
        text: what else the docstring says, before its shapes.
        shapes: of what it takes and gives.
        family: of the catalogue.
        needs: in words: labels, features, ...
        refuses: what it cannot work with, each in a sentence.
        pairing: how layers are chosen where nobody names them; empty for a loss on outputs.
        options: all but `kind` and `name`.
        notes: what differs from another method in one line.
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
        """What a recipe may hold."""
        required = "".join(f", {option.name}: ..." for option in self.options if option.required)
        return f"losses: [{{kind: {self.kind}, weight: {self.weight:g}{required}}}]"


def describe_kind(member: type[Loss]) -> Description:
    """A kind as it describes itself."""
    sections = split_docstring(member)
    formula, _, text = sections[""].partition("\n")
    return Description(
        kind=kind_of(member),
        known_as=member.known_as,
        paper=member.paper,
        formula=formula,
        text=text.strip(),
        shapes=" ".join(sections.get("Shapes", member.shape_text).split()),
        family=_family(member),
        needs=list_needs(member),
        refuses=list_refusals(member),
        pairing=describe_pairing(member),
        options=tuple(_options(member)),
        notes=member.notes,
    )


def split_docstring(member: type[Any]) -> dict[str, str]:
    """The parts of a class' own docstring by their headings; what comes first is under the empty one."""
    found, heading = {"": ""}, ""
    for line in inspect.cleandoc(member.__doc__ or member.__name__).splitlines():
        match = _SECTION.match(line)
        if match:
            heading, line = match[1], line.removeprefix(match[0]).strip()
        found[heading] = f"{found.get(heading, '')}{line}\n"
    return {name: text.strip("\n") for name, text in found.items()}


def _family(member: type[Loss]) -> str:
    if member.keeps:
        return MEMORY_FAMILY
    if not issubclass(member, FeatureLoss):
        return OUTPUT_FAMILY
    if member.projects or member.build is not Loss.build:
        return WEIGHT_FAMILY
    return RELATION_FAMILY if member.whole_batch else FEATURE_FAMILY


def _options(member: type[Loss]) -> Iterator[Option]:
    meanings = _meanings(member)
    schema = member.model_json_schema(by_alias=True)
    for name, field in member.model_fields.items():
        if name in ("kind", "name"):
            continue
        written = field.alias or name
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        plain = list(default) if isinstance(default, tuple) else default
        words = _type_text(schema["properties"][written])
        yield Option(written, words, plain, meanings.get(name, ""), field.is_required())


def _meanings(member: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its parents say of their settings; the class itself wins."""
    found: dict[str, str] = {}
    for one in member.__mro__:
        if isinstance(one, type) and issubclass(one, Loss):
            for names, text in _entries(split_docstring(one).get("Args", "")):
                for name in names.split(", "):
                    found.setdefault(name, text)
    return found


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """`name: what it is` with its further lines, which are indented."""
    for entry in re.split(r"\n(?=\S)", inspect.cleandoc("\n" + text)):
        name, colon, meaning = entry.partition(":")
        if colon:
            yield name.strip(), " ".join(meaning.split())


def _type_text(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words, as a table can hold them."""
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return " or ".join(dict.fromkeys(words for one in several if (words := _type_text(one)) != "nothing"))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema:
        return f"a {schema['$ref'].rsplit('/', 1)[-1].lower()}"
    if schema.get("type") == "array":
        inner: Mapping[str, Any] = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
        return f"list ({_type_text(inner)})" if inner else "list"
    names = {"integer": "whole number", "number": "number", "string": "word", "boolean": "true | false"}
    words = names.get(str(schema.get("type")), "nothing" if schema.get("type") == "null" else "mapping")
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([words, ", ".join(bounds)]).strip()
