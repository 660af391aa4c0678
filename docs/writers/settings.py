"""Settings of a recipe, from its JSON schema and the docstrings of its classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcli import Recipe
from kdcli.spec import Spec
from writers.markdown import arguments, sections, table, value_text

Schema = Mapping[str, Any]
SCHEMA: Schema = Recipe.model_json_schema(by_alias=True)
KINDS = ("kind", "name")
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` | `false`"}
BELOW = "a kind, see below"
# Described on pages of their own.
ELSEWHERE = {
    "losses": "Every kind with its options: [losses.md](losses.md).",
    "gates": "A bound for each metric. Every metric: [scripting.md](scripting.md#metrics).",
}


def setting_tables() -> str:
    """A section for each section of a recipe, followed by the kinds that its settings take."""
    return "\n".join(_walk(SCHEMA, "", set()))


def _walk(schema: Schema, path: str, seen: set[str]) -> Iterator[str]:
    """Sections for everything that a schema's properties may hold, depth first; each class once."""
    for name, field in schema["properties"].items():
        where = f"{path}.{name}" if path else name
        models = [model for model in _models(field) if model["title"] not in seen]
        seen |= {model["title"] for model in models}
        if where in ELSEWHERE:
            yield f"### {where}\n\n{ELSEWHERE[where]}\n"
            continue
        for model in models:
            if "properties" in model and not _is_kind(model) and model["title"] != "Standardization":
                yield from _section(where, model)
                yield from _walk(model, where, seen)
        kinds = [model for model in models if _is_kind(model)]
        if kinds:
            yield f"### {_both_models(where)}\n"
            yield from _optimizers(kinds) if where.endswith("optimizer") else map(_kind, kinds)


def _section(path: str, model: Schema) -> Iterator[str]:
    yield f"### {_both_models(path)}\n\n{_text(model)}\n"
    yield table(["setting", "default", "takes", "meaning"], list(_rows(model)))


def _kind(model: Schema) -> str:
    options = table(["option", "default", "takes", "meaning"], _options(model))
    return f"`{{{_named(model)}}}`: {_text(model)}\n" + (f"\n{options}" if _options(model) else "")


def _optimizers(models: list[Schema]) -> Iterator[str]:
    """One table for all of them: most arguments are Keras' own and several optimizers share them."""
    common = set.intersection(*(set(model["properties"]) for model in models)) - {"kind", "learning_rate"}
    rows = []
    for model in models:
        properties = model["properties"]
        own = ", ".join(f"`{name}`" for name in properties if name not in {*common, "kind", "learning_rate"})
        rate = value_text(properties["learning_rate"]["default"])
        rows.append([f"`{properties['kind']['const']}`", _text(model).rstrip("."), rate, own])
    names = ", ".join(f"`{name}`" for name in models[0]["properties"] if name in common)
    yield f"An argument that is left out has Keras' default. All optimizers also take {names}.\n"
    yield table(["kind", "class", "`learning_rate`", "arguments"], rows)


def _options(model: Schema) -> list[list[str]]:
    fixed = [f"`{key}`" for key in KINDS if "const" in model["properties"].get(key, {})]
    return [row for row in _rows(model) if row[0] not in fixed]


def _rows(model: Schema) -> Iterator[list[str]]:
    meanings = _meanings(model["title"])
    for name, field in model["properties"].items():
        required = name in model.get("required", ())
        yield [f"`{name}`", "required" if required else _default(field), _type(field), meanings.get(name, "")]


def _meanings(title: str) -> dict[str, str]:
    """What the docstrings of a class and its parents say about their fields, by the names that recipes use."""
    member = _classes(Spec).get(title)
    found: dict[str, str] = {}
    for one in member.__mro__ if member else ():
        for names, meaning in arguments(one.__doc__ or "") if issubclass(one, Spec) else ():
            for name in names.split(", "):
                field = one.model_fields.get(name)
                found.setdefault((field and field.alias) or name, meaning)
    return found


def _classes(parent: type[Spec]) -> dict[str, type[Spec]]:
    found = {}
    for one in parent.__subclasses__():
        found |= {one.__name__: one, **_classes(one)}
    return found


def _text(model: Schema) -> str:
    return sections(model.get("description", ""))[""]


def _named(model: Schema) -> str:
    properties = model["properties"]
    return ", ".join(f"{key}: {properties[key]['const']}" for key in KINDS if "const" in properties.get(key, {}))


def _default(field: Schema) -> str:
    default = field.get("default")
    if isinstance(default, dict):
        default = (
            {name: value for name, value in default.items() if value is not None} if "kind" in default else None
        )
    return f"`{value_text(default)}`" if value_text(default) else ""


def _type(schema: Schema) -> str:
    return " or ".join(dict.fromkeys(text for one in _alternatives(schema) if (text := _plain_type(one))))


def _plain_type(schema: Schema) -> str:
    if "$ref" in schema:
        return BELOW if _is_kind(_resolve(schema)) else "mapping"
    if schema.get("type") == "null":
        return ""
    if "enum" in schema or "const" in schema:
        return " | ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        items = _type(schema.get("items") or next(iter(schema.get("prefixItems", ())), {}))
        return "list of " + ("kinds, see below" if items.startswith(BELOW) else items)
    if schema.get("exclusiveMaximum") == schema.get("maximum") or "exclusiveMaximum" in schema:
        schema = {name: value for name, value in schema.items() if name != "maximum"}
    if "exclusiveMinimum" in schema:
        schema = {name: value for name, value in schema.items() if name != "minimum"}
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = ", ".join(f"{sign} {_number(schema[key])}" for key, sign in signs.items() if key in schema)
    return " ".join([WORDS.get(schema.get("type", ""), "mapping"), bounds]).strip()


def _number(value: float) -> str:
    return f"2^{value.bit_length() - 1}" if isinstance(value, int) and value > 10**6 else f"{value:g}"


def _alternatives(schema: Schema) -> Iterator[Schema]:
    """A schema, or those that it is one of."""
    several = schema.get("anyOf") or schema.get("oneOf")
    if not several:
        yield schema
    for one in several or ():
        yield from _alternatives(one)


def _models(schema: Schema) -> Iterator[Schema]:
    """Every class that a value may be, also as an item of a list."""
    for one in _alternatives(schema):
        if "$ref" in one:
            yield _resolve(one)
        elif one.get("type") == "array" and isinstance(one.get("items"), dict):
            yield from _models(one["items"])


def _resolve(schema: Schema) -> Schema:
    found: Schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return found


def _is_kind(model: Schema) -> bool:
    return any("const" in model.get("properties", {}).get(key, {}) for key in KINDS)


def _both_models(path: str) -> str:
    """Settings that the teacher and the student share are described once."""
    shared = path in ("teacher.model", "teacher.input")
    return f"{path} and {path.replace('teacher', 'student')}" if shared else path
