"""The features of one or several layers, taken two by two as they were given."""

from __future__ import annotations

from typing import Any

from kdcli.formulas.convention import features, promote


def list_features(student: Any, teacher: Any) -> tuple[list[Any], list[Any]]:
    """The features of both sides as lists, all in the widest of their float types, at least float32."""
    students, teachers = features(student), features(teacher)
    every = promote(*students, *teachers)
    return every[: len(students)], every[len(students) :]


def pair_features(
    student: Any, teacher: Any, *, least: int = 1, equal_channels: bool = False
) -> list[tuple[Any, Any]]:
    """Features as pairs of (student, teacher) in one float type, at least float32; their shapes may differ.

    Args:
        student, teacher: a feature or a list of them.
        least: how many layers the loss needs.
        equal_channels: whether both features of a pair must have the same number.

    Raises:
        ValueError: other numbers of layers or channels.
    """
    students, teachers = list_features(student, teacher)
    if len(students) != len(teachers):
        raise ValueError(f"{len(students)} student features but {len(teachers)} teacher features")
    if len(students) < least:
        raise ValueError(f"features of {len(students)} layer; this loss is about {least} layers or more")
    for ours, theirs in zip(students, teachers, strict=True):
        if equal_channels and ours.shape[-1] != theirs.shape[-1]:
            raise ValueError(
                f"student feature {tuple(ours.shape)} and teacher feature {tuple(theirs.shape)} "
                "have different numbers of channels"
            )
    return list(zip(students, teachers, strict=True))


def pair_equal_features(student: Any, teacher: Any) -> list[tuple[Any, Any]]:
    """Features as pairs of equal shapes, as projections leave them.

    Raises:
        ValueError: other numbers of layers, or shapes that differ.
    """
    pairs = pair_features(student, teacher)
    for ours, theirs in pairs:
        if tuple(ours.shape) != tuple(theirs.shape):
            raise ValueError(
                f"student feature {tuple(ours.shape)} and teacher feature {tuple(theirs.shape)} differ; "
                "a run makes a projection, a direct call needs equal shapes"
            )
    return pairs
