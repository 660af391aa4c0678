"""Custom kinds: the classes that `--code` files define, and how a tagged union accepts their entries.

They travel with one validation as its pydantic context. There is no registry, so no other call sees them.
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
    """What the `--code` files define.

    Args:
        members: (file name, class) pairs.
        paths: all `--code` files, including those that only define layers.
        keep_unknown: keep entries of unknown kinds unchanged instead of refusing them, for readers that look at
            other parts of a recipe.
    """

    members: tuple[tuple[str, type[Spec]], ...] = ()
    paths: tuple[Path, ...] = ()
    keep_unknown: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """File names without folders, as recipes list them under `requires`."""
        return tuple(path.name for path in self.paths)

    def of(self, family: type[Kind]) -> dict[str, type[Kind]]:
        """The classes of a family (`Loss`, `Source`, `Augment`) by kind."""
        return {kind_of(member): member for _, member in self.members if issubclass(member, family)}

    def files_of(self, entry: Any) -> tuple[str, ...]:
        """Names of the files that define the custom kinds used in a recipe or in a part of it."""
        files = {member: file for file, member in self.members}
        return tuple(dict.fromkeys(files[type(part)] for part in _iterate_parts(entry) if type(part) in files))


NO_CUSTOM = CustomKinds()
KEEP_UNKNOWN = CustomKinds(keep_unknown=True)


class UnknownEntry(Spec):
    """An entry whose kind is not defined here; it is kept unchanged and never used."""

    model_config = ConfigDict(extra="allow")

    kind: str
    name: str | None = None

    @property
    def label(self) -> str:
        """The name of the term in logs."""
        return self.name or self.kind


@dataclass(frozen=True)
class OrCustom:
    """Annotation for a tagged union whose entries may also be of a custom kind.

    Args:
        family: base class of the custom kinds that are accepted.
    """

    family: type[Spec]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Make pydantic call `validate_entry` before the union's own validation."""
        return WrapValidator(self.validate_entry).__get_pydantic_core_schema__(source, handler)

    def validate_entry(self, value: Any, handler: Any, info: ValidationInfo) -> Any:
        """Turn an entry into an object of its class."""
        custom: CustomKinds = info.context or NO_CUSTOM
        classes = custom.of(self.family)
        kind = getattr(value, "kind", None) if isinstance(value, Spec) else None
        kind = value.get("kind") if isinstance(value, dict) else kind
        if isinstance(kind, str) and kind in classes:
            return classes[kind].model_validate(_dump(value), context=custom)
        try:
            return handler(value)
        except ValidationError as error:
            (first, *_) = error.errors(include_url=False)
            if first["type"] != "union_tag_invalid" or first["loc"]:
                raise
            if custom.keep_unknown and isinstance(kind, str):
                return UnknownEntry.model_validate(_dump(value))
            raise _add_expected_kinds(error, first, classes) from None


def kind_of(member: type[Spec]) -> str:
    """The value of `kind` that selects a class."""
    return str(member.model_fields["kind"].default)


def find_specs(annotation: Any, custom: CustomKinds = NO_CUSTOM) -> Iterator[type[Spec]]:
    """Find every class that a value with this annotation can have."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    if isinstance(annotation, OrCustom):
        yield from custom.of(annotation.family).values()
    for argument in get_args(annotation):
        yield from find_specs(argument, custom)


def has_unknown_entry(entry: Any) -> bool:
    """Whether any part of an entry has a kind that was unknown when it was read."""
    return any(isinstance(part, UnknownEntry) for part in _iterate_parts(entry))


def _add_expected_kinds(error: ValidationError, first: Any, classes: Mapping[str, Any]) -> ValidationError:
    """Copy an `unknown kind` error, with the custom kinds among the expected ones."""
    expected = ", ".join([first["ctx"]["expected_tags"], *(repr(kind) for kind in classes)])
    context = {**first["ctx"], "expected_tags": expected}
    detail: Any = {"type": first["type"], "loc": (), "input": first["input"], "ctx": context}
    return ValidationError.from_exception_data(error.title, [detail])


def _dump(value: Any) -> Any:
    """Turn an object into its recipe entry: its class may come from another copy of the same file."""
    if isinstance(value, Spec):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return value


def _iterate_parts(entry: Any) -> Iterator[Any]:
    """Iterate over a recipe entry and everything nested in it."""
    if isinstance(entry, Spec):
        yield entry
        for name in type(entry).model_fields:
            yield from _iterate_parts(getattr(entry, name))
    elif isinstance(entry, list | tuple):
        for item in entry:
            yield from _iterate_parts(item)
