"""Named arrays as splits: recognize their names, check them, group them by split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.examples import SINGLE_INPUT, Examples, Splits
from kdcli.data.npz import read_arrays
from kdcli.data.split_names import SPLIT_NAMES, SPLIT_WORDS
from kdcli.errors import DataError, did_you_mean

_LAYOUT = "x_train, y_train, x_test, y_test (or x, y)"
_PARTS = {
    "x": ("x", "images", "image", "imgs", "data", "features", "inputs", "input"),
    "y": ("y", "labels", "label", "targets", "target"),
    "weight": ("weight", "weights", "sampleweight", "sampleweights"),
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}
_PART, _SPLIT = "|".join(_PART_OF), "|".join(SPLIT_WORDS)
# Matches names reduced to lowercase letters: `x`, `xtrain`, `trainsetx`.
_NAME = re.compile(rf"({_PART})({_SPLIT})?|({_SPLIT})(?:set)?({_PART})")


def list_first(values: Sequence[Any] | np.ndarray) -> str:
    """List at most five values for a message: `3, 7, 9, 12, 15 and 40 more`."""
    text = ", ".join(str(value) for value in values[:5])
    return text + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _standardize_names(keys: Iterable[str], *, name: str) -> dict[str, str]:
    """Map array names to standard names: `x_train`, `y`, `x_test.left`; unknown names map to themselves.

    Args:
        keys: array names.
        name: name of the data in messages.

    Raises:
        DataError: two names stand for the same array.
    """
    found: dict[str, str] = {}
    for key in keys:
        standard = _standardize(key)
        if standard in found:
            raise DataError(
                f"{name}: {found[standard]} and {key} both match {standard}; arrays: {', '.join(keys)}",
                hint=f"keep one of them, named {standard}: np.savez(path, x=..., y=...)",
            )
        found[standard] = key
    return {key: standard for standard, key in found.items()}


def _standardize(key: str) -> str:
    head, dot, rest = key.partition(".")
    match = _NAME.fullmatch(re.sub(r"[\W_]", "", head).lower())
    if match is None:
        return key
    part, split = _PART_OF[match[1] or match[4]], match[2] or match[3]
    return f"{part}_{SPLIT_WORDS[split]}{dot}{rest}" if split else f"{part}{dot}{rest}"


def read_npz(path: Path, *, name: str, classes: tuple[str, ...] | int | None = None) -> Splits:
    """Read the splits of a `.npz` file; pickled objects are refused, large arrays stay in the file.

    Args:
        path: the file.
        name: name of the data in messages.
        classes: class names in label order, or their number.

    Raises:
        DataError: the file is missing, not a `.npz` file, or its arrays do not fit each other.
    """
    return splits_from_arrays(read_arrays(path), name=name, classes=classes)


def splits_from_arrays(
    arrays: Mapping[str, np.ndarray], *, name: str, classes: tuple[str, ...] | int | None = None
) -> Splits:
    """Build splits from `x_train y_train weight_train ...` or from `x y weight`; several inputs: `x_train.NAME`.

    Args:
        arrays: arrays by name, one row per example.
        name: name of the data in messages.
        classes: class names in label order, or their number.

    Raises:
        DataError: an unknown name, a missing array, different lengths, or an empty split.
    """
    found_names = ", ".join(arrays) or "nothing"
    names = _standardize_names(arrays, name=name)
    renamed = [f"{key} as {names[key]}" for key in arrays if names[key] != key.lower()]
    notes = (f"{name}: read {', '.join(renamed)}",) if renamed else ()
    arrays = {names[key]: value for key, value in arrays.items()}
    if any(key in arrays or key.startswith("x.") for key in ("x", *arrays)) and "x_train" not in arrays:
        arrays = {_add_train(key): value for key, value in arrays.items()}
    known = {f"{part}_{split}" for part in ("x", "y") for split in SPLIT_NAMES} | {"weight_train"}
    for key in arrays:
        if key.split(".")[0] not in known:
            raise DataError(
                f"{name}: unknown array {key!r}; {did_you_mean(key, known)}expected {_LAYOUT}, "
                f"found {found_names}",
                hint=f"known names: {', '.join(sorted(known))}; np.savez(path, x=..., y=...) sets the names",
            )
    splits = {split: _build_split(arrays, split, name) for split in SPLIT_NAMES}
    if splits["train"] is None:
        raise DataError(f"{name}: x_train is missing; expected {_LAYOUT}, found {found_names}")
    return Splits(
        name=name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        classes=classes,
        notes=notes,
    )


def format_array_name(split: str, key: str) -> str:
    """Format the name of an input in the file: `x_train`, or `x_train.NAME` if there are several."""
    return f"x_{split}" if key == SINGLE_INPUT else f"x_{split}.{key}"


def _add_train(key: str) -> str:
    head, dot, rest = key.partition(".")
    return f"{head}_train{dot}{rest}" if head in ("x", "y", "weight") else key


def _build_split(arrays: Mapping[str, np.ndarray], split: str, name: str) -> Examples | None:
    prefix = f"x_{split}."
    inputs = {key.removeprefix(prefix): np.asarray(arrays[key]) for key in arrays if key.startswith(prefix)}
    if f"x_{split}" in arrays:
        inputs[SINGLE_INPUT] = np.asarray(arrays[f"x_{split}"])
    if not inputs:
        orphan = next((key for key in arrays if key.split(".")[0] == f"y_{split}"), None)
        if orphan is not None and any(key.split(".")[0] == "x_train" for key in arrays):
            raise DataError(
                f"{name}: {orphan} has no matching x_{split}", hint=f"store both arrays, or remove {orphan}"
            )
        return None
    labels, weights = arrays.get(f"y_{split}"), arrays.get(f"weight_{split}")
    head = f"y_{split}."
    named = {key.removeprefix(head): _decode_texts(arrays[key]) for key in arrays if key.startswith(head)}
    labels = None if labels is None else _decode_texts(labels)
    parts: dict[str, np.ndarray | None] = {format_array_name(split, key): array for key, array in inputs.items()}
    parts |= {f"y_{split}": labels, **{head + key: one for key, one in named.items()}, f"weight_{split}": weights}
    count = _check_parts({key: array for key, array in parts.items() if array is not None}, split, name)
    if weights is not None:
        weights = _check_weights(np.asarray(weights), name, split)
    return Examples(split, inputs, labels, weights, np.arange(count), named_labels=named)


def _check_parts(parts: Mapping[str, np.ndarray], split: str, name: str) -> int:
    """Check types and lengths of the arrays of a split; return the number of examples."""
    for part, array in parts.items():
        kinds = "biufU" if part.startswith("y") else "biuf"
        if array.ndim == 0 or array.dtype.kind not in kinds:
            raise DataError(f"{name}: {part} must contain numbers, got {array.dtype} of shape {array.shape}")
    lengths = {part: len(array) for part, array in parts.items()}
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"{part} {length}" for part, length in lengths.items())
        raise DataError(f"{name}: lengths differ: {counts}", hint="every array needs one row for each example")
    count = next(iter(lengths.values()))
    if count == 0:
        raise DataError(f"{name}: the {split} split is empty")
    return count


def _decode_texts(labels: np.ndarray) -> np.ndarray:
    """Convert text labels to NumPy's string type; other labels are returned unchanged."""
    labels = np.asarray(labels)
    texts = labels.dtype.kind == "O" and all(isinstance(value, str) for value in labels.ravel())
    return labels.astype(str) if texts or labels.dtype.kind == "S" else labels


def _check_weights(weights: np.ndarray, name: str, split: str) -> np.ndarray:
    wrong = np.flatnonzero(~np.isfinite(weights) | (weights < 0)) if weights.ndim == 1 else np.arange(1)
    if weights.ndim != 1 or len(wrong):
        problem = f"invalid at {list_first(wrong)}" if weights.ndim == 1 else f"got shape {weights.shape}"
        raise DataError(f"{name}: weight_{split} must hold one number >= 0 per example ({problem})")
    return weights.astype(np.float32)
