"""Features of one or more layers, in pairs of student and teacher."""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.formulas.convention import features, promote
from kdcli.lazy import ops
from kdcli.tensors import Tensor


def list_features(
    student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the features of both sides as lists, all in the widest of their float types, at least float32."""
    students, teachers = features(student), features(teacher)
    every = promote(*students, *teachers)
    return every[: len(students)], every[len(students) :]


def pair_features(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    least: int = 1,
    equal_channels: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Return pairs (student, teacher) in one float type, at least float32; their shapes may differ.

    Args:
        student, teacher: a feature or a list of features.
        least: number of layers that the loss needs.
        equal_channels: whether the features of a pair must have the same number of channels.

    Raises:
        ValueError: the numbers of layers or channels do not fit.
    """
    students, teachers = list_features(student, teacher)
    if len(students) != len(teachers):
        raise ValueError(f"{len(students)} student features but {len(teachers)} teacher features")
    if len(students) < least:
        raise ValueError(f"this loss needs at least {least} layers (got {len(students)})")
    for ours, theirs in zip(students, teachers, strict=True):
        if equal_channels and ours.shape[-1] != theirs.shape[-1]:
            raise ValueError(
                f"student feature {tuple(ours.shape)} and teacher feature {tuple(theirs.shape)} "
                "have different numbers of channels"
            )
    return list(zip(students, teachers, strict=True))


def pair_equal_features(
    student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of equal shapes, as projections make them.

    Raises:
        ValueError: the numbers of layers or the shapes differ.
    """
    pairs = pair_features(student, teacher)
    for ours, theirs in pairs:
        if tuple(ours.shape) != tuple(theirs.shape):
            raise ValueError(
                f"student feature {tuple(ours.shape)} and teacher feature {tuple(theirs.shape)} differ; "
                "a run adds a projection, a direct call needs equal shapes"
            )
    return pairs


def sum_by_depth(values: Sequence[Tensor]) -> Tensor:
    """Σ 2^(i − n) · the sum of the i-th of n tensors over all axes but the first: (batch, ...) each → (batch,)."""
    total: Tensor = 0.0
    for place, value in enumerate(values, start=1):
        total = total + 2.0 ** (place - len(values)) * ops.sum(value, axis=tuple(range(1, len(value.shape))))
    return total
