"""Types of settings that accept values of several types, told apart by their YAML type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from kdcli.spec import Fraction, Names, PositiveFloat

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _select_tag(value: Any) -> str:
    if isinstance(value, str):
        return "word"
    if isinstance(value, dict):
        return "mapping"
    if isinstance(value, list | tuple):
        return "list"
    return "fraction" if isinstance(value, float) else "count"


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, int) for item in value)


HeightAndWidth = Annotated[tuple[Count, Count], Field(strict=False)]
WordOrSize = Annotated[
    Annotated[Literal["auto"], Tag("word")] | Annotated[HeightAndWidth, Tag("list")], Discriminator(_select_tag)
]
WordOrViews = Annotated[
    Annotated[Literal["auto", "all"], Tag("word")] | Annotated[Count, Tag("count")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "count"),
]
WordOrFraction = Annotated[
    Annotated[Literal["auto"], Tag("word")] | Annotated[Fraction, Field(lt=1), Tag("fraction")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "fraction"),
]
ExampleLimit = Annotated[
    Annotated[Count, Tag("count")] | Annotated[Fraction, Field(gt=0), Tag("fraction")], Discriminator(_select_tag)
]
NamesOrLabels = Annotated[tuple[str | int, ...], Field(strict=False)]
ClassNames = Annotated[
    Annotated[str, Tag("word")] | Annotated[NamesOrLabels, Tag("list")], Discriminator(_select_tag)
]
ColumnNumber = Annotated[int, Field(ge=0)]
ColumnNumbers = Annotated[tuple[ColumnNumber, ...], Field(strict=False, min_length=1)]
ClassColumns = Annotated[
    Annotated[str, Tag("word")] | Annotated[Names, Tag("list")] | Annotated[ColumnNumbers, Tag("numbers")],
    Discriminator(lambda value: "numbers" if _is_numbers(value) else _select_tag(value)),
]
ClassWeights = Annotated[dict[str, PositiveFloat], Field(min_length=1)]
ClassWeight = Annotated[
    Annotated[Literal["none", "balanced"], Tag("word")] | Annotated[ClassWeights, Tag("mapping")],
    Discriminator(_select_tag),
]

InputValue = Annotated[
    Annotated[bool, Tag("flag")]
    | Annotated[int, Tag("whole")]
    | Annotated[str, Tag("word")]
    | Annotated[float, Tag("number")],
    Discriminator(lambda value: {bool: "flag", int: "whole", str: "word"}.get(type(value), "number")),
]
InputValues = Annotated[dict[str, InputValue], Field(min_length=1)]


def is_file_name(name: str) -> bool:
    """Whether a text is the name of a Python file, without a folder."""
    return name.endswith(".py") and "/" not in name and "\\" not in name


def _check_file_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not is_file_name(name):
            raise ValueError(f"must be names of Python files without folders, such as my_loss.py, got {name!r}")
    return names


CodeFiles = Annotated[Names, AfterValidator(_check_file_names)]
