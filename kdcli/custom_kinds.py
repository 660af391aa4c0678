"""Kinds of the user's own: which there are, and how a tagged union takes their entries.

They travel with a validation as its context. There is no registry: what one call is given, no other call sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ConfigDict, GetCoreSchemaHandler, ValidationError, ValidationInfo, WrapValidator

from kdcli.spec import Spec

Kind = TypeVar("Kind", bound=Spec)


@dataclass(frozen=True)
class CustomKinds:
    """What the files of `--code` define.

    Args:
        members: each class with the name of its file.
        paths: all files that were given, also those that define layers only.
        as_written: entries of unknown kinds are kept as they are, by whoever looks at other things in a recipe.
    """

    members: tuple[tuple[str, type[Spec]], ...] = ()
    paths: tuple[Path, ...] = ()
    keep_unknown: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files, by which recipes require them."""
        return tuple(path.name for path in self.paths)

    def of(self, family: type[Kind]) -> dict[str, type[Kind]]:
        """The classes of a family (`Loss`, `Source`, `Augment`) by their kind."""
        return {kind_of(member): member for _, member in self.members if issubclass(member, family)}

    def files_of(self, entry: Any) -> tuple[str, ...]:
        """The names of the files that a recipe, or a part of it, cannot do without."""
        own = {member: file for file, member in self.members}
        return tuple(dict.fromkeys(own[type(part)] for part in _parts(entry) if type(part) in own))


NO_CUSTOM = CustomKinds()
KEEP_UNKNOWN = CustomKinds(keep_unknown=True)


class UnknownEntry(Spec):
    """An entry whose kind nobody knows here: kept, never used."""

    model_config = ConfigDict(extra="allow")

    kind: str
    name: str | None = None

    @property
    def label(self) -> str:
        """A term's name."""
        return self.name or self.kind


@dataclass(frozen=True)
class OrCustom:
    """Stands beside a tagged union: an entry may also be of one of the user's own kinds.

    Args:
        family: what such a kind is a subclass of.
    """

    family: type[Spec]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Tell pydantic to ask `entry` first."""
        return WrapValidator(self.entry).__get_pydantic_core_schema__(source, handler)

    def entry(self, value: Any, handler: Any, info: ValidationInfo) -> Any:
        """The entry as an object of its class."""
        given: CustomKinds = info.context or NO_CUSTOM
        own = given.of(self.family)
        kind = getattr(value, "kind", None) if isinstance(value, Spec) else _get(value, "kind")
        if isinstance(kind, str) and kind in own:
            return own[kind].model_validate(_plain(value), context=given)
        try:
            return handler(value)
        except ValidationError as error:
            (first, *_) = error.errors(include_url=False)
            if first["type"] != "union_tag_invalid" or first["loc"]:
                raise
            if given.keep_unknown and isinstance(kind, str):
                return UnknownEntry.model_validate(_plain(value))
            raise _with_own(error, first, own) from None


def kind_of(member: type[Spec]) -> str:
    """The kind that a class stands for."""
    return str(member.model_fields["kind"].default)


def find_specs(annotation: Any, custom: CustomKinds = NO_CUSTOM) -> Iterator[type[Spec]]:
    """Every class that a value of an annotation may become."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    if isinstance(annotation, OrCustom):
        yield from custom.of(annotation.family).values()
    for argument in get_args(annotation):
        yield from find_specs(argument, custom)


def has_unknown_entry(entry: Any) -> bool:
    """Whether a part of an entry is of a kind that nobody knew when it was read."""
    return any(isinstance(part, UnknownEntry) for part in _parts(entry))


def _with_own(error: ValidationError, first: Any, own: Mapping[str, Any]) -> ValidationError:
    """The same fault, with the user's own kinds among those that were expected."""
    expected = ", ".join([first["ctx"]["expected_tags"], *(repr(kind) for kind in own)])
    context = {**first["ctx"], "expected_tags": expected}
    detail: Any = {"type": first["type"], "loc": (), "input": first["input"], "ctx": context}
    return ValidationError.from_exception_data(error.title, [detail])


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _plain(value: Any) -> Any:
    """An object as its recipe entry: made in Python, it may be of another copy of the same file."""
    if isinstance(value, Spec):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return value


def _parts(entry: Any) -> Iterator[Any]:
    """A recipe's entry, and all that stand in it."""
    if isinstance(entry, Spec):
        yield entry
        for name in type(entry).model_fields:
            yield from _parts(getattr(entry, name))
    elif isinstance(entry, list | tuple):
        for one in entry:
            yield from _parts(one)
