"""The classes of the data: what they are called, and which label stands for which."""

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
