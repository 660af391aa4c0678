"""Stages: one distillation after another, each student teaching the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field, SerializationInfo, model_serializer, model_validator

from kdcli.loss import Loss
from kdcli.losses import AnyLoss
from kdcli.recipe.model_sections import StudentSection
from kdcli.recipe.training import TrainSection
from kdcli.spec import Spec

# What is one thing for the whole recipe.
_COMMON = ("seed", "devices")
Section = TypeVar("Section", bound=Spec)


class StageSection(Spec):
    """One of several distillations, in what it differs from the recipe around it.

    The first stage has the recipe's teacher, each later one the student of the stage before.

    Args:
        description: of the stage.
        student: what is said here replaces the recipe's `student`, key by key.
        losses: instead of the recipe's.
        train: what is said here replaces the recipe's `train`, key by key.
    """

    description: str = ""
    student: StudentSection | None = None
    losses: Annotated[tuple[AnyLoss, ...], Field(strict=False, min_length=1)] | None = None
    train: TrainSection | None = None

    @model_serializer(mode="plain")
    def _only_what_is_said(self, info: SerializationInfo) -> dict[str, Any]:
        # Written out, the defaults of a stage would hide what the recipe around it says.
        how: dict[str, Any] = {"mode": info.mode, "by_alias": True}
        found: dict[str, Any] = {}
        for name in (name for name in type(self).model_fields if name in self.model_fields_set):
            value = getattr(self, name)
            if isinstance(value, tuple):
                found[name] = [loss.model_dump(**how, exclude_none=True) for loss in value]
            else:
                found[name] = dump_explicit(value, **how) if isinstance(value, Spec) else value
        return found

    @model_validator(mode="after")
    def _what_is_common(self) -> StageSection:
        given = [name for name in _COMMON if self.train and name in self.train.model_fields_set]
        if given:
            raise ValueError(f"train.{given[0]} holds for all stages: write it in the recipe's own train")
        check_loss_names(self.losses or ())
        return self


def check_loss_names(losses: Sequence[Loss]) -> None:
    """Refuse two losses of one name.

    Raises:
        ValueError: naming it.
    """
    labels = [loss.label for loss in losses]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two losses are called {twice[0]!r}: give one of them a `name:`")


def dump_explicit(section: Spec, **how: Any) -> dict[str, Any]:
    """What somebody said in a section, without the defaults around it; a mapping with a `kind` as a whole."""
    whole, found = section.model_dump(**how), {}
    for name, field in type(section).model_fields.items():
        if name in section.model_fields_set:
            value = getattr(section, name)
            partial = isinstance(value, Spec) and "kind" not in type(value).model_fields
            found[field.alias or name] = dump_explicit(value, **how) if partial else whole[field.alias or name]
    return found


def drop_settings(own: Section, keys: frozenset[str]) -> Section:
    """What a stage says of its own, less some keys: there the recipe around it holds."""
    return type(own)(**{name: getattr(own, name) for name in own.model_fields_set - keys})


def merge_sections(whole: Section, own: Section | None) -> Section:
    """A section with what a stage says of its own; a mapping with a `kind` is replaced as a whole.

    Args:
        whole: the recipe's.
        own: the stage's, or None.
    """
    update = {}
    for name in own.model_fields_set if own is not None else ():
        ours, theirs = getattr(whole, name), getattr(own, name)
        same = isinstance(theirs, Spec) and type(ours) is type(theirs) and "kind" not in type(theirs).model_fields
        update[name] = merge_sections(ours, theirs) if same else theirs
    return whole.model_copy(update=update)
