"""Labels stored by output name: select those of one output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kdcli.data.examples import Splits
from kdcli.data.split_names import SPLIT_NAMES
from kdcli.errors import DataError, did_you_mean


def choose_labels(splits: Splits, setting: str, *, output_names: Sequence[str]) -> tuple[Splits, str | None]:
    """Choose one set of labels; return the splits with it, and its name. A note lists labels that are not used.

    Args:
        splits: splits with `y_train`, `y_train.NAME`, or several of them.
        setting: `data.labels`: a name, `auto` or `none`.
        output_names: selected outputs of the models.

    Raises:
        DataError: unknown labels, several labels without a choice, or names that differ between splits.
    """
    parts = {key: part for key in SPLIT_NAMES if (part := getattr(splits, key)) is not None}
    names = list(splits.train.named_labels)
    if setting == "none":
        return splits, None
    for key, part in parts.items():
        _check_names(splits, key, list(part.named_labels), expected=names)
    name = setting if setting != "auto" else next((name for name in output_names if name in names), None)
    if name is not None and name not in names:
        raise DataError(
            f"{splits.name}: no y_train.{name}; {did_you_mean(name, names)}labels: {_list_labels(names)}",
            hint="--set data.labels=auto" + (f", or --set data.labels={names[0]}" if names else ""),
        )
    if not names:
        return splits, None
    has_plain = splits.train.labels is not None
    if name is None and (len(names) > 1 or has_plain):
        found = ["y_train", *names] if has_plain else names
        raise DataError(
            f"{splits.name}: several labels: {_list_labels(found)}",
            hint=f"--output {names[0]} selects the output and the labels of that name, "
            f"--set data.labels={names[0]} only the labels",
        )
    name = name or names[0]
    chosen = {
        key: replace(part, labels=part.named_labels.get(name), named_labels={}) for key, part in parts.items()
    }
    unused = ["y_train"] if has_plain else []
    unused += [f"y_train.{other}" for other in names if other != name]
    suffix = f"; not used: {', '.join(unused)}" if unused else ""
    note = f"{splits.name}: labels are y_train.{name}{suffix}"
    return replace(splits, notes=(*splits.notes, note), **chosen), name


def _check_names(splits: Splits, key: str, names: list[str], *, expected: list[str]) -> None:
    """Refuse label names that differ from those of the training split."""
    part = getattr(splits, key)
    if part.labels is None and not names:
        return
    if sorted(names) != sorted(expected):
        found = [f"y_{key}.{name}" for name in names] or [f"y_{key}"]
        wanted = [f"y_{key}.{name}" for name in expected] or [f"y_{key}"]
        raise DataError(
            f"{splits.name}: labels {', '.join(found)}; expected {', '.join(wanted)} as in the training split",
            hint="use the same label names in all splits, such as y_train and y_test",
        )


def _list_labels(names: Iterable[str]) -> str:
    return ", ".join(name if name == "y_train" else f"y_train.{name}" for name in names) or "y_train"
