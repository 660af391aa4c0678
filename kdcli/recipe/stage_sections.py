"""Stages: a chain of distillations, in which each student becomes the teacher of the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SerializationInfo, model_serializer, model_validator

from kdcli.loss import Loss
from kdcli.losses import AnyLoss
from kdcli.recipe.model_sections import StudentSection
from kdcli.recipe.train_section import TrainSection
from kdcli.spec import Spec

# Keys of `train` that apply to the whole recipe.
_COMMON_KEYS = ("seed", "devices", "quantize")
Section = TypeVar("Section", bound=Spec)


class StageSection(Spec):
    """One distillation of a chain: its differences from the rest of the recipe.

    Args:
        description: description of the stage.
        teacher: `previous`, the student of the stage before, or `first`, the teacher of the recipe, which also
            teaches the first stage; by default `first` for a shrunk student and `previous` for any other.
        student: replaces keys of the recipe's `student`.
        losses: replaces the recipe's `losses`.
        train: replaces keys of the recipe's `train`.
    """

    description: str = ""
    teacher: Literal["first", "previous"] | None = None
    student: StudentSection | None = None
    losses: Annotated[tuple[AnyLoss, ...], Field(strict=False, min_length=1)] | None = None
    train: TrainSection | None = None

    @model_serializer(mode="plain")
    def _dump_explicit(self, info: SerializationInfo) -> dict[str, Any]:
        # If they were written, the defaults of a stage would replace the settings of the recipe around it.
        options: dict[str, Any] = {"mode": info.mode, "by_alias": True}
        values: dict[str, Any] = {}
        for name in (name for name in type(self).model_fields if name in self.model_fields_set):
            value = getattr(self, name)
            if isinstance(value, tuple):
                values[name] = [loss.model_dump(**options, exclude_none=True) for loss in value]
            else:
                values[name] = dump_explicit(value, **options) if isinstance(value, Spec) else value
        return values

    @model_validator(mode="after")
    def _check_common_keys(self) -> StageSection:
        common = [name for name in _COMMON_KEYS if self.train and name in self.train.model_fields_set]
        if common:
            raise ValueError(f"train.{common[0]} applies to all stages: write it in the recipe's own train")
        check_loss_names(self.losses or ())
        return self


def check_loss_names(losses: Sequence[Loss]) -> None:
    """Check that no two losses have the same name.

    Raises:
        ValueError: two losses do.
    """
    labels = [loss.label for loss in losses]
    duplicates = sorted({label for label in labels if labels.count(label) > 1})
    if duplicates:
        raise ValueError(f"two losses are named {duplicates[0]!r}: give one of them another `name:`")


def dump_explicit(section: Spec, **options: Any) -> dict[str, Any]:
    """Dump the settings that were written in a section, without defaults; a mapping with a `kind` as a whole.

    Args:
        section: the section.
        options: arguments of `model_dump`.
    """
    whole, values = section.model_dump(**options), {}
    for name, field in type(section).model_fields.items():
        if name in section.model_fields_set:
            value = getattr(section, name)
            partial = isinstance(value, Spec) and "kind" not in type(value).model_fields
            key = field.alias or name
            values[key] = dump_explicit(value, **options) if partial else whole[key]
    return values


def drop_settings(section: Section, keys: frozenset[str]) -> Section:
    """Remove keys from a stage's section, so that those of the recipe apply."""
    return type(section)(**{name: getattr(section, name) for name in section.model_fields_set - keys})


def merge_sections(base: Section, stage: Section | None) -> Section:
    """Merge a stage's section into the recipe's; a mapping with a `kind` is replaced as a whole.

    Args:
        base: section of the recipe.
        stage: section of the stage, or None.
    """
    update = {}
    for name in stage.model_fields_set if stage is not None else ():
        old, new = getattr(base, name), getattr(stage, name)
        partial = isinstance(new, Spec) and type(old) is type(new) and "kind" not in type(new).model_fields
        update[name] = merge_sections(old, new) if partial else new
    return base.model_copy(update=update)
