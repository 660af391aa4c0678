"""Labels by name: of several outputs of a model, the ones that are meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kdcli.data.examples import Splits
from kdcli.errors import DataError, did_you_mean


def choose_labels(splits: Splits, setting: str, *, output_names: Sequence[str]) -> tuple[Splits, str | None]:
    """The splits with the labels that are meant, and their name; no labelled array is left out without a word.

    Args:
        splits: with `y_train`, `y_train.NAME`, or several of them.
        setting: `data.labels`: a name, `auto` or `none`.
        output_names: of the models, as far as they were chosen.

    Raises:
        DataError: labels of no such name, several and none chosen, or names that differ between splits.
    """
    parts = {key: part for key in ("train", "validation", "test") if (part := getattr(splits, key)) is not None}
    names = list(splits.train.named_labels)
    if setting == "none":
        return splits, None
    for key, part in parts.items():
        _check_names(splits, key, list(part.named_labels), names)
    named = setting if setting != "auto" else next((name for name in output_names if name in names), None)
    if named is not None and named not in names:
        raise DataError(
            f"{splits.name}: has no y_train.{named}; {did_you_mean(named, names)}labels: {_listed(names)}",
            hint="--set data.labels=auto" + (f", or --set data.labels={names[0]}" if names else ""),
        )
    if not names:
        return splits, None
    if named is None and (len(names) > 1 or splits.train.labels is not None):
        more = ["y_train", *names] if splits.train.labels is not None else names
        raise DataError(
            f"{splits.name}: has several labels: {_listed(more)}",
            hint=f"--output {names[0]} chooses the output and the labels of that name, "
            f"--set data.labels={names[0]} the labels alone",
        )
    named = named or names[0]
    chosen = {
        key: replace(part, labels=part.named_labels.get(named), named_labels={}) for key, part in parts.items()
    }
    left = ["y_train"] if splits.train.labels is not None else []
    left += [f"y_train.{name}" for name in names if name != named]
    without = f"; {', '.join(left)} left out" if left else ""
    note = f"{splits.name}: labels are y_train.{named}{without}"
    return replace(splits, notes=(*splits.notes, note), **chosen), named


def _check_names(splits: Splits, key: str, names: list[str], wanted: list[str]) -> None:
    """Refuse names in one split that the training part does not have, and the other way round."""
    part = getattr(splits, key)
    if part.labels is None and not names:
        return
    if sorted(names) != sorted(wanted):
        has = [f"y_{key}.{name}" for name in names] or [f"y_{key}"]
        expected = [f"y_{key}.{name}" for name in wanted] or [f"y_{key}"]
        raise DataError(
            f"{splits.name}: has {', '.join(has)}, expected {', '.join(expected)} as in the training part",
            hint="call the labels of all splits alike, such as y_train and y_test",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name if name == "y_train" else f"y_train.{name}" for name in names) or "y_train"
