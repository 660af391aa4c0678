"""Classes of the data: names, the label value of each class, and counting classes in integer labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.arrays import list_first
from kdcli.data.examples import Splits
from kdcli.errors import DataError
from kdcli.runs.class_names import read_class_names
from kdcli.runs.mapped_arrays import iterate_parts

# Classes that a hint writes out one by one.
MAX_LISTED_CLASSES = 20


@dataclass(frozen=True)
class Classes:
    """What is known of the classes before the labels are looked at.

    Args:
        names: in the order of the outputs, or None.
        count: how many, or None where only the labels say.
        values: the label of each class, in the order of the outputs; empty where they are 0, 1, 2, ...
    """

    names: tuple[str, ...] | None = None
    count: int | None = None
    values: tuple[int, ...] = ()


def resolve_classes(setting: Any, splits: Splits) -> Classes:
    """The classes that `data.classes` names, else those that the source knows.

    Names that are whole numbers are the labels themselves: `[1, 2, 3]`, `[-1, 1]`. Where the source has names of
    its own, the same names in another order are another order of the outputs.

    Raises:
        DataError: a file that cannot be read, a name that appears twice or contradicts the source.
    """
    own = splits.classes if isinstance(splits.classes, tuple) else None
    if setting is None:
        count = splits.classes if isinstance(splits.classes, int) else len(own) if own else None
        return Classes(own, count)
    names = _read_names(setting)
    if len(set(names)) != len(names):
        raise DataError("data.classes: a name appears twice")
    if own is not None:
        return Classes(names, len(names), _reordered(names, own, splits.name))
    values = tuple(int(name) for name in names) if all(map(_is_whole, names)) else ()
    return Classes(names, len(names), () if values == tuple(range(len(values))) else values)


def encode_text_labels(splits: Splits, setting: Any) -> Splits:
    """The splits with labels that are texts as numbers: in the order of `data.classes`, else in string order.

    Raises:
        DataError: a text in another split, or outside of `data.classes`, that is no class.
    """
    labels = splits.train.labels
    if labels is None or labels.dtype.kind != "U":
        return splits
    names = _read_names(setting) if setting is not None else tuple(np.unique(labels).tolist())
    order = np.argsort(names)
    known = np.asarray(names)[order]
    parts = {}
    for key in ("train", "validation", "test"):
        part = getattr(splits, key)
        if part is None or part.labels is None:
            continue
        texts = part.labels.reshape(len(part.labels), -1).astype(str)
        found = np.minimum(np.searchsorted(known, texts), len(known) - 1)
        wrong = np.flatnonzero((known[found] != texts).any(axis=1))
        if texts.shape[1] != 1 or len(wrong):
            example = str(texts[wrong[0], 0]) if len(wrong) else texts.shape
            raise DataError(
                f"{splits.name}: y_{key} has {len(wrong)} labels that are not among the classes "
                f"({example!r}; at {list_first(wrong)})",
                hint=f"classes: {', '.join(names[:MAX_LISTED_CLASSES])}; data.classes names all of them",
            )
        parts[key] = replace(part, labels=order[found[:, 0]])
    return replace(splits, classes=names, **parts)


def format_classes_setting(values: Sequence[int]) -> str:
    """The setting that says which label each output is for."""
    if len(values) <= MAX_LISTED_CLASSES:
        return f"--set 'data.classes=[{', '.join(str(value) for value in values)}]'"
    return f"seq {values[0]} {values[-1]} > classes.txt, then --set data.classes=classes.txt"


def _read_names(given: Any) -> tuple[str, ...]:
    if not isinstance(given, str):
        return tuple(str(name) for name in given)
    return read_class_names(Path(given), DataError, setting="data.classes")


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _reordered(names: tuple[str, ...], own: tuple[str, ...], where: str) -> tuple[int, ...]:
    """The source's number of each class, in the order of the names; empty where that changes nothing."""
    if not set(names) & set(own):
        return ()
    missing = [name for name in own if name not in names]
    moved = any(name in own and own.index(name) != at for at, name in enumerate(names))
    if missing and moved:
        raise DataError(
            f"data.classes has no {missing[0]!r}, and {where} has; a new name stands where the old one was",
            hint=f"the classes of the data, in its order: {', '.join(own[:MAX_LISTED_CLASSES])}",
        )
    if not moved:
        return ()
    return tuple(own.index(name) if name in own else len(own) + at for at, name in enumerate(names))


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
