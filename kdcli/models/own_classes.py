"""The kinds among the names of a user's file: which classes they are, and whether they can be kinds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from kdcli.augment import AnyAugment
from kdcli.custom_kinds import kind_of, specs_in
from kdcli.errors import UsageError
from kdcli.loss import Loss
from kdcli.losses import AnyLoss
from kdcli.sources import AnySource
from kdcli.spec import Augment, Source, Spec


@dataclass(frozen=True)
class Family:
    """What own kinds may be of.

    Args:
        parent: the class that they are subclasses of.
        entries: what a recipe may hold of it.
        verb: the method that each kind must have.
    """

    parent: type[Spec]
    entries: Any
    verb: str


FAMILIES = (
    Family(Loss, AnyLoss, "__call__"),
    Family(Source, AnySource, "load"),
    Family(Augment, AnyAugment, "__call__"),
)


def classes_in(namespace: Mapping[str, Any], *, module: str, file: str) -> list[type[Spec]]:
    """The kinds that a file defines, in order.

    Args:
        namespace: its names.
        module: what its classes say of where they were made.
        file: what messages call it.

    Raises:
        UsageError: a class that is meant to be a kind and cannot be one.
    """
    made = [
        (member, family)
        for member in dict.fromkeys(value for value in namespace.values() if isinstance(value, type))
        for family in FAMILIES
        if issubclass(member, family.parent) and member.__module__ == module
    ]
    found: list[type[Spec]] = []
    for member, family in made:
        parent_of = [other for other, _ in made if other is not member and issubclass(other, member)]
        if parent_of and not _has_kind(member):
            continue
        _refuse(member, family, f"--code {file}: {member.__name__}")
        same = [other for other in found if kind_of(other) == kind_of(member)]
        if same:
            raise UsageError(
                f"--code {file}: {member.__name__}: {same[0].__name__} has the kind {kind_of(member)!r} already"
            )
        found.append(member)
    return found


def _method(member: type[Spec], name: str) -> Any:
    # Asked as an attribute, `__call__` would be that of the class' own class.
    return next((vars(one)[name] for one in member.__mro__ if name in vars(one)), None)


def _takes_more(method: Any) -> bool:
    """Whether a method takes any argument by name."""
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(method).parameters.values())


def _has_kind(member: type[Spec]) -> bool:
    field = member.model_fields["kind"]
    return "kind" in inspect.get_annotations(member) and isinstance(field.default, str)


def _refuse(member: type[Spec], family: Family, where: str) -> None:
    if not _has_kind(member):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", member.__name__).lower()
        raise UsageError(f"{where} has no kind", hint=f'kind: Literal["{name}"] = "{name}"')
    kind, annotation = kind_of(member), member.model_fields["kind"].annotation
    if get_origin(annotation) is not Literal or get_args(annotation) != (kind,):
        raise UsageError(
            f"{where}: its kind must be of the type Literal", hint=f'kind: Literal["{kind}"] = "{kind}"'
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
        raise UsageError(f"{where}: a kind is a word of a-z, 0-9 and _, got {kind!r}")
    taken = {kind_of(known): known for known in specs_in(family.entries)}
    if kind in taken:
        raise UsageError(
            f"{where}: the kind {kind!r} is taken, by kdcli's {taken[kind].__name__}", hint="give it another name"
        )
    if _method(member, family.verb) is _method(family.parent, family.verb):
        raise UsageError(f"{where} has no {family.verb}", hint="kd losses show soft_targets; docs/own-kinds.md")
    if family.parent is Loss and not _takes_more(_method(member, "__call__")):
        raise UsageError(
            f"{where}: its __call__ must ignore what it does not use",
            hint="def __call__(self, *, student, teacher, **_)",
        )
    if member.model_rebuild(raise_errors=False) is False:
        raise UsageError(f"{where}: the type of a setting is not defined in the file")
