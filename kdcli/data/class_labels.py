"""Whole numbers as labels: the classes that they name, or why they can be none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcli.data.arrays import list_first
from kdcli.data.classes import MAX_LISTED_CLASSES, format_classes_setting
from kdcli.errors import DataError
from kdcli.runs.mapped_arrays import iterate_parts

# Up to so many different whole numbers are classes, however few examples each has.
FEW_CLASSES = 20
REGRESSION_HINT = "--set data.task=regression when the labels are values, not classes"


@dataclass(frozen=True)
class ClassCount:
    """The classes that labels name.

    Args:
        count: how many.
        values: the label of each, in the order of the outputs; empty where they are 0, 1, 2, ...
        notes: sentences about what is not plain to see.
    """

    count: int
    values: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def count_classes(labels: np.ndarray, where: str, *, declared: bool, maps: bool, ignore: int | None) -> ClassCount:
    """The classes of labels that are whole numbers, where only the labels themselves tell.

    Args:
        labels: (n,) or (n, h, w).
        where: they are from, for messages.
        declared: whether somebody said that they are classes.
        maps: whether each pixel has one.
        ignore: the label of pixels that count for nothing.

    Raises:
        DataError: values rather than classes, gaps, or a single class.
    """
    values, counts = count_values(labels)
    kept = values != ignore
    values, counts = values[kept], counts[kept]
    if not len(values):
        raise DataError(f"{where} holds nothing but {ignore}, the label that data.ignore leaves out")
    if len(values) == 1:
        raise DataError(
            f"{where}: every label is {values[0]}, which says nothing of the other classes",
            hint=f"{format_classes_setting(sorted({0, 1, int(values[0])}))}, or the names of all classes",
        )
    if values.tolist() == [-1, 1] or (maps and values.tolist() == [0, 255]):
        low, high = values.tolist()
        text = f"{where} is {low} or {high}: taken as the classes 0 and 1"
        return ClassCount(2, (low, high), (text,))
    if values[0] < 0:
        raise _negative(labels, values, where, maps=maps)
    notes = [] if maps or declared else _check_many(values, int(counts.sum()), where)
    missing = (
        sorted(set(range(int(values[-1]) + 1)) - set(values.tolist()))
        if values[-1] < 10 * len(values) + 256
        else []
    )
    lone = maps and values[-1] == 255 and 254 not in values
    if values[-1] + 1 - len(values) > len(values) or lone:
        raise _sparse(labels, values, counts, where, maps=maps)
    notes += [_missing_text(missing, values, where)] if missing else []
    return ClassCount(int(values[-1]) + 1, notes=tuple(notes))


def _could_be_classes(values: np.ndarray) -> bool:
    """Whether most numbers from the least to the largest occur."""
    return int(values[-1]) + 1 - int(values[0]) <= 2 * len(values)


def _check_many(values: np.ndarray, examples: int, where: str) -> list[str]:
    """Refuse whole numbers of which there are more than examples of each: prices, ages, numbers of rows.

    Numbers without a gap, from 0 or 1 on, are classes while there are two examples of each, and that is said.
    """
    dense = values[0] in (0, 1) and values[-1] + 1 - values[0] == len(values)
    if len(values) <= FEW_CLASSES or len(values) <= examples / len(values):
        return []
    if not dense or 2 * len(values) > examples:
        raise DataError(
            f"{where} has {len(values)} different whole numbers from {values[0]} to {values[-1]} in {examples} "
            "examples: values rather than classes",
            hint="--set data.task=regression"
            + (", or --set data.task=classification when each is a class" if _could_be_classes(values) else ""),
        )
    return [f"{where} has {len(values)} classes and {examples} examples ({REGRESSION_HINT})"]


def _sparse(labels: np.ndarray, values: np.ndarray, counts: np.ndarray, where: str, *, maps: bool) -> DataError:
    last = int(values[-1])
    rows = np.flatnonzero((labels == last).reshape(len(labels), -1).any(axis=1))
    unit = "pixels" if maps else "examples"
    message = (
        f"{where} has {len(values)} different labels up to {last}: {last + 1 - len(values)} classes in between "
        f"would never occur ({last} in {counts[-1]} {unit}, at {list_first(rows)})"
    )
    rest = values[:-1]
    if maps and last == 255 and len(rest) > 1 and rest[-1] + 1 <= 2 * len(rest):
        return DataError(message, hint=f"--set data.ignore=255 when these pixels are void, or {_either(values)}")
    if len(rest) and rest[-1] + 1 == len(rest) and counts[-1] <= 0.05 * counts.sum():
        return DataError(message, hint=f"correct these labels, or {_either(values)}")
    return DataError(message, hint=_either(values))


def _either(values: np.ndarray) -> str:
    named = (
        format_classes_setting(values.tolist())
        if len(values) <= MAX_LISTED_CLASSES
        else "number the classes 0, 1, 2, ..."
    )
    return f"{named} when they are classes; --set data.task=regression when they are values"


def _negative(labels: np.ndarray, values: np.ndarray, where: str, *, maps: bool) -> DataError:
    rows = np.flatnonzero((labels < 0).reshape(len(labels), -1).any(axis=1))
    lowest = ", ".join(str(value) for value in values[values < 0][:5])
    ignored = f"--set data.ignore={values[0]} when these pixels are void; " if maps else ""
    if not maps and values[0] == -1 and values[-1] + 2 <= 2 * len(values):
        ignored = "leave these examples out when -1 means without a label; "
    return DataError(
        f"{where} has {len(rows)} labels below 0 (values {lowest}; at {list_first(rows)})",
        hint=ignored + _either(values),
    )


def _missing_text(missing: Sequence[int], values: np.ndarray, where: str) -> str:
    if missing == [0]:
        last = int(values[-1])
        return (
            f"{where} has the labels 1 to {last}: the class 0 of {last + 1} never occurs "
            f"({format_classes_setting(range(1, last + 1))} when the first class is 1)"
        )
    shown = ", ".join(str(one) for one in missing[:5]) + (
        f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    )
    occur = "occurs" if len(missing) == 1 else "occur (--set data.task=regression when the labels are values)"
    return f"{where} has labels up to {values[-1]}, and {shown} never {occur}"


def count_values(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different labels in order, and how often each occurs."""
    found: dict[int, int] = {}
    for _, part in iterate_parts(labels):
        if part.dtype == np.uint8:
            counted = np.bincount(part.ravel(), minlength=256)
            pairs = zip(np.flatnonzero(counted).tolist(), counted[counted > 0].tolist(), strict=True)
        else:
            values, counts = np.unique(part.astype(np.int64), return_counts=True)
            pairs = zip(values.tolist(), counts.tolist(), strict=True)
        for value, count in pairs:
            found[value] = found.get(value, 0) + count
    ordered = sorted(found)
    return np.array(ordered, np.int64), np.array([found[value] for value in ordered], np.int64)
