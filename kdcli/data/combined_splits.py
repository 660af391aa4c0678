"""Splits combined from several sources, one source for each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kdcli.data.examples import Examples, Splits
from kdcli.data.named_arrays import list_first
from kdcli.data.split_names import SPLIT_NAMES
from kdcli.errors import DataError


def combine_splits(parts: Mapping[str, Splits]) -> Splits:
    """Combine one source per split: from each its split of that name, or all of it if it has no splits.

    Args:
        parts: sources by `train`, `validation`, `test`.

    Raises:
        DataError: a source lacks its split, or inputs, classes or columns differ.
    """
    chosen = {split: _choose_split(split, part) for split, part in parts.items()}
    train = parts["train"]
    for split, part in parts.items():
        if isinstance(part.classes, tuple) and isinstance(train.classes, tuple):
            _check_same("classes", train.classes, part.classes, names=(train.name, part.name))
        elif part.classes is not None and train.classes is not None:
            found, expected = _count_classes(part.classes), _count_classes(train.classes)
            if found != expected:
                raise DataError(f"{part.name}: {found} classes; expected {expected} as in {train.name}")
        if part.columns is not None and train.columns is not None:
            _check_same("columns", train.columns, part.columns, names=(train.name, part.name))
        inputs, expected_inputs = (", ".join(chosen[key].shapes) for key in (split, "train"))
        if inputs != expected_inputs:
            raise DataError(f"{part.name}: inputs {inputs}; expected {expected_inputs} as in {train.name}")
    return Splits(
        name=" + ".join(dict.fromkeys(part.name for part in parts.values())),
        train=chosen["train"],
        validation=chosen.get("validation"),
        test=chosen.get("test"),
        classes=next((part.classes for part in parts.values() if part.classes is not None), None),
        notes=tuple(dict.fromkeys(note for part in parts.values() for note in part.notes)),
        columns=train.columns,
    )


def describe_difference(
    subject: str, first: Sequence[str], second: Sequence[str], *, names: tuple[str, str]
) -> str | None:
    """Describe values that only one of two splits has; None if there are none.

    Args:
        subject: plural noun for the values.
        first, second: the values of the splits.
        names: names of the two splits in the text.
    """
    for here, there, holder, other in ((first, second, *names), (second, first, *names[::-1])):
        missing = [value for value in here if value not in there]
        if missing:
            return f"{subject} differ between splits: {list_first(missing)} in {holder}, but not in {other}"
    return None


def _choose_split(split: str, part: Splits) -> Examples:
    examples: Examples | None = getattr(part, split)
    if examples is None and part.validation is None and part.test is None:
        examples = part.train
    if examples is None:
        available = [name for name in SPLIT_NAMES if getattr(part, name) is not None]
        raise DataError(
            f"data.source.{split}: {part.name} has no {split} split; available: {', '.join(available)}"
        )
    # Only training uses weights.
    return replace(examples, split=split, weights=examples.weights if split == "train" else None)


def _count_classes(classes: tuple[str, ...] | int) -> int:
    return len(classes) if isinstance(classes, tuple) else classes


def _check_same(subject: str, first: tuple[str, ...], second: tuple[str, ...], *, names: tuple[str, str]) -> None:
    difference = describe_difference(subject, first, second, names=names)
    if difference:
        raise DataError(difference)
    if first != second:
        raise DataError(f"{subject} differ between splits: {names[0]} and {names[1]} list them in different order")
