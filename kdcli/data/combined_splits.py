"""Splits put together from several sources, one for each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdcli.data.examples import Examples, Splits
from kdcli.errors import DataError


def combine_splits(parts: Mapping[str, Splits]) -> Splits:
    """One set of splits from a source for each: its split of that name, or all of a source without splits.

    Args:
        parts: by `train`, `validation`, `test`.

    Raises:
        DataError: a source without that split, classes or columns that differ.
    """
    chosen = {split: _chosen(split, part) for split, part in parts.items()}
    train = parts["train"]
    for split, part in parts.items():
        if isinstance(part.classes, tuple) and isinstance(train.classes, tuple):
            _refuse_difference("classes", train.classes, part.classes, train.name, part.name)
        elif part.classes is not None and train.classes is not None and _count(part) != _count(train):
            raise DataError(f"{part.name} has {_count(part)} classes, {train.name} has {_count(train)}")
        if part.columns is not None and train.columns is not None:
            _refuse_difference("columns", train.columns, part.columns, train.name, part.name)
        if list(chosen[split].shapes) != list(chosen["train"].shapes):
            raise DataError(
                f"{part.name} has the inputs {', '.join(chosen[split].shapes)}, "
                f"{train.name} has {', '.join(chosen['train'].shapes)}"
            )
    name = " + ".join(dict.fromkeys(part.name for part in parts.values()))
    classes = next((part.classes for part in parts.values() if part.classes is not None), None)
    notes = tuple(dict.fromkeys(note for part in parts.values() for note in part.notes))
    return Splits(
        name,
        chosen["train"],
        chosen.get("validation"),
        chosen.get("test"),
        classes=classes,
        notes=notes,
        columns=train.columns,
    )


def _chosen(split: str, part: Splits) -> Examples:
    own: Examples | None = getattr(part, split)
    if own is None and part.validation is None and part.test is None:
        own = part.train
    if own is None:
        there = [name for name in ("train", "validation", "test") if getattr(part, name) is not None]
        raise DataError(f"data.source.{split}: {part.name} has no {split} split; there is {', '.join(there)}")
    # Only training uses weights.
    return replace(own, split=split, weights=own.weights if split == "train" else None)


def _count(part: Splits) -> int | None:
    return len(part.classes) if isinstance(part.classes, tuple) else part.classes


def _refuse_difference(
    what: str, ours: tuple[str, ...], theirs: tuple[str, ...], name: str, other_name: str
) -> None:
    if ours == theirs:
        return
    for one, other, here, there in ((ours, theirs, name, other_name), (theirs, ours, other_name, name)):
        missing = [value for value in one if value not in other]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataError(
                f"{what} differ between splits: {here} has {', '.join(missing[:5])}{more}, {there} has not"
            )
    raise DataError(f"{what} differ between splits: {name} and {other_name} have them in another order")
