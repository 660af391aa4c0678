"""Classes of the data: names, the label value of each class, and counting classes in integer labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdcli.data.examples import Splits
from kdcli.data.named_arrays import list_first
from kdcli.data.split_names import SPLIT_NAMES
from kdcli.errors import DataError
from kdcli.runs.class_names import read_class_names
from kdcli.runs.mapped_arrays import iterate_parts

# Integers with at most this many different values are classes, even with few examples each.
FEW_CLASSES = 20
# Classes that a hint lists one by one.
MAX_LISTED_CLASSES = 20
REGRESSION_HINT = "--set data.task=regression when the labels are values, not classes"


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes that `data.classes` or the source define, before labels are read.

    Args:
        names: names in output order, or None.
        count: number of classes; None if only the labels define it.
        values: label of each class, in output order; empty if they are 0, 1, 2, ...
    """

    names: tuple[str, ...] | None = None
    count: int | None = None
    values: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Classes that occur in labels.

    Args:
        count: number of classes.
        values: label of each class, in output order; empty if they are 0, 1, 2, ...
        notes: sentences for the user about unusual labels.
    """

    count: int
    values: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def resolve_classes(setting: str | Sequence[str | int] | None, splits: Splits) -> Classes:
    """Resolve the classes from `data.classes`, else from the source.

    Names that are integers are the labels themselves: `[1, 2, 3]`, `[-1, 1]`. If the source has the same names in
    another order, the outputs are reordered.

    Args:
        setting: `data.classes`: names, a file with one name per line, or None.
        splits: the splits of the source.

    Raises:
        DataError: an unreadable file, a duplicate name, or names that contradict the source.
    """
    known = splits.classes if isinstance(splits.classes, tuple) else None
    if setting is None:
        count = splits.classes if isinstance(splits.classes, int) else len(known) if known else None
        return Classes(names=known, count=count)
    names = _read_names(setting)
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise DataError(f"data.classes: duplicate name {duplicates[0]!r}")
    if known is not None:
        return Classes(names=names, count=len(names), values=_reorder(names, known, splits.name))
    values = tuple(int(name) for name in names) if all(map(_is_integer, names)) else ()
    if values == tuple(range(len(values))):
        values = ()
    return Classes(names=names, count=len(names), values=values)


def encode_text_labels(splits: Splits, setting: str | Sequence[str | int] | None) -> Splits:
    """Replace text labels by numbers, in the order of `data.classes`, else in string order.

    Args:
        splits: the splits of the source.
        setting: `data.classes`: names, a file with one name per line, or None.

    Raises:
        DataError: a text that is not a class.
    """
    labels = splits.train.labels
    if labels is None or labels.dtype.kind != "U":
        return splits
    names = _read_names(setting) if setting is not None else tuple(np.unique(labels).tolist())
    order = np.argsort(names)
    known = np.asarray(names)[order]
    parts = {}
    for key in SPLIT_NAMES:
        part = getattr(splits, key)
        if part is None or part.labels is None:
            continue
        texts = part.labels.reshape(len(part.labels), -1).astype(str)
        if texts.shape[1] != 1:
            shape = part.labels.shape
            raise DataError(f"{splits.name}: y_{key} has shape {shape}; expected one text label per example")
        found = np.minimum(np.searchsorted(known, texts), len(known) - 1)
        wrong = np.flatnonzero((known[found] != texts).any(axis=1))
        if len(wrong):
            raise DataError(
                f"{splits.name}: y_{key} has {len(wrong)} labels that are not among the classes "
                f"({str(texts[wrong[0], 0])!r}; at {list_first(wrong)})",
                hint=f"classes: {', '.join(names[:MAX_LISTED_CLASSES])}; data.classes must list all of them",
            )
        parts[key] = replace(part, labels=order[found[:, 0]])
    return replace(splits, classes=names, **parts)


def format_classes_setting(values: Sequence[int]) -> str:
    """Format the setting that assigns a label to each output."""
    if len(values) <= MAX_LISTED_CLASSES:
        return f"--set 'data.classes=[{', '.join(str(value) for value in values)}]'"
    return f"seq {values[0]} {values[-1]} > classes.txt, then --set data.classes=classes.txt"


def _read_names(setting: str | Sequence[str | int]) -> tuple[str, ...]:
    if not isinstance(setting, str):
        return tuple(str(name) for name in setting)
    return read_class_names(Path(setting), DataError, setting="data.classes")


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _reorder(names: tuple[str, ...], known: tuple[str, ...], source: str) -> tuple[int, ...]:
    """Map names to the class numbers of the source; empty if the order does not change."""
    if not set(names) & set(known):
        return ()
    missing = [name for name in known if name not in names]
    moved = any(name in known and known.index(name) != at for at, name in enumerate(names))
    if missing and moved:
        raise DataError(
            f"data.classes: {missing[0]!r} of {source} is missing; a renamed class must keep its position",
            hint=f"classes of {source}, in order: {', '.join(known[:MAX_LISTED_CLASSES])}",
        )
    if not moved:
        return ()
    return tuple(known.index(name) if name in known else len(known) + at for at, name in enumerate(names))


def count_classes(labels: np.ndarray, where: str, *, declared: bool, maps: bool, ignore: int | None) -> ClassCount:
    """Count the classes of integer labels when nothing else defines them.

    Args:
        labels: (n,) or (n, h, w) integers.
        where: name of the labels in messages.
        declared: whether the user said that the labels are classes.
        maps: whether each pixel has a label.
        ignore: label of void pixels.

    Raises:
        DataError: values rather than classes, gaps, or a single class.
    """
    values, counts = count_labels(labels)
    used = values != ignore
    values, counts = values[used], counts[used]
    if not len(values):
        raise DataError(f"{where} contains only the label {ignore}, which data.ignore excludes")
    if len(values) == 1:
        raise DataError(
            f"{where}: every label is {values[0]}; the other classes are unknown",
            hint=f"{format_classes_setting(sorted({0, 1, int(values[0])}))}, or the names of all classes",
        )
    if values.tolist() == [-1, 1] or (maps and values.tolist() == [0, 255]):
        low, high = values.tolist()
        note = f"{where}: labels {low} and {high} are read as classes 0 and 1"
        return ClassCount(count=2, values=(low, high), notes=(note,))
    if values[0] < 0:
        raise _negative_labels(labels, values, where, maps=maps)
    notes = [] if maps or declared else _check_many(values, int(counts.sum()), where)
    last = int(values[-1])
    # An isolated 255 in maps usually marks void pixels.
    isolated = maps and last == 255 and 254 not in values
    if last + 1 - len(values) > len(values) or isolated:
        raise _sparse_labels(labels, values, counts, where=where, maps=maps)
    missing = sorted(set(range(last + 1)) - set(values.tolist()))
    notes += [_describe_missing(missing, values, where)] if missing else []
    return ClassCount(count=last + 1, notes=tuple(notes))


def count_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the different labels; return them in order, and how often each occurs."""
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


def _check_many(values: np.ndarray, examples: int, where: str) -> list[str]:
    """Refuse integers with more values than examples of each: prices, ages, row numbers.

    Integers without gaps, from 0 or 1, are classes if there are two examples of each; a note says so.
    """
    dense = values[0] in (0, 1) and values[-1] + 1 - values[0] == len(values)
    if len(values) <= FEW_CLASSES or len(values) <= examples / len(values):
        return []
    if not dense or 2 * len(values) > examples:
        may_be_classes = int(values[-1]) + 1 - int(values[0]) <= 2 * len(values)
        raise DataError(
            f"{where} has {len(values)} different whole numbers from {values[0]} to {values[-1]} in {examples} "
            "examples: values rather than classes",
            hint="--set data.task=regression"
            + (", or --set data.task=classification when each is a class" if may_be_classes else ""),
        )
    return [f"{where} has {len(values)} classes and {examples} examples ({REGRESSION_HINT})"]


def _sparse_labels(
    labels: np.ndarray, values: np.ndarray, counts: np.ndarray, *, where: str, maps: bool
) -> DataError:
    last = int(values[-1])
    rows = np.flatnonzero((labels == last).reshape(len(labels), -1).any(axis=1))
    unit = "pixels" if maps else "examples"
    message = (
        f"{where} has {len(values)} different labels up to {last}; {last + 1 - len(values)} classes in between "
        f"never occur ({last} in {counts[-1]} {unit}, at {list_first(rows)})"
    )
    rest = values[:-1]
    hint = _suggest_task(values)
    if maps and last == 255 and len(rest) > 1 and rest[-1] + 1 <= 2 * len(rest):
        hint = f"--set data.ignore=255 when these pixels are void, or {hint}"
    elif len(rest) and rest[-1] + 1 == len(rest) and counts[-1] <= 0.05 * counts.sum():
        hint = f"correct these labels, or {hint}"
    return DataError(message, hint=hint)


def _negative_labels(labels: np.ndarray, values: np.ndarray, where: str, *, maps: bool) -> DataError:
    rows = np.flatnonzero((labels < 0).reshape(len(labels), -1).any(axis=1))
    lowest = ", ".join(str(value) for value in values[values < 0][:5])
    advice = f"--set data.ignore={values[0]} when these pixels are void; " if maps else ""
    if not maps and values[0] == -1 and values[-1] + 2 <= 2 * len(values):
        advice = "remove these examples when -1 means unlabelled; "
    return DataError(
        f"{where} has {len(rows)} labels below 0 (values {lowest}; at {list_first(rows)})",
        hint=advice + _suggest_task(values),
    )


def _suggest_task(values: np.ndarray) -> str:
    few = len(values) <= MAX_LISTED_CLASSES
    classes = format_classes_setting(values.tolist()) if few else "number the classes 0, 1, 2, ..."
    return f"{classes} when they are classes; --set data.task=regression when they are values"


def _describe_missing(missing: Sequence[int], values: np.ndarray, where: str) -> str:
    if missing == [0]:
        last = int(values[-1])
        return (
            f"{where} has the labels 1 to {last}: class 0 of {last + 1} never occurs "
            f"({format_classes_setting(range(1, last + 1))} when the first class is 1)"
        )
    verb = "occurs" if len(missing) == 1 else "occur (--set data.task=regression when the labels are values)"
    return f"{where} has labels up to {values[-1]}, but {list_first(missing)} never {verb}"
