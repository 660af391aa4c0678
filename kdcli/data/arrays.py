"""Named arrays as splits: recognize their names, check them, group them by split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from kdcli.data.examples import SINGLE_INPUT, Examples, Splits
from kdcli.data.npz import read_arrays
from kdcli.data.split_names import SPLIT_NAMES, SPLIT_WORDS
from kdcli.errors import DataError, did_you_mean

_PARTS = {
    "x": ("x", "images", "image", "imgs", "data", "features", "inputs", "input"),
    "y": ("y", "labels", "label", "targets", "target"),
    "weight": ("weight", "weights", "sampleweight", "sampleweights"),
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}
_PART, _SPLIT = "|".join(_PART_OF), "|".join(SPLIT_WORDS)
# Of the letters alone: `x`, `x_train`, `train_set_x`.
_NAME = re.compile(rf"({_PART})({_SPLIT})?|({_SPLIT})(?:set)?({_PART})")


def standardize_names(keys: Iterable[str], *, name: str) -> dict[str, str]:
    """The name of each array as kd has it: `x_train`, `y`, `x_test.left`; an unknown one as it is.

    Raises:
        DataError: two arrays that may be the same one.
    """
    found: dict[str, str] = {}
    for key in keys:
        standard = _standard(key)
        if standard in found:
            raise DataError(
                f"{name}: {found[standard]} and {key} may both be {standard}; arrays: {', '.join(keys)}",
                hint=f"store one of them, as {standard}: np.savez(path, x=..., y=...)",
            )
        found[standard] = key
    return {key: standard for standard, key in found.items()}


def _standard(key: str) -> str:
    head, dot, rest = key.partition(".")
    match = _NAME.fullmatch(re.sub(r"[\W_]", "", head).lower())
    if match is None:
        return key
    part, split = _PART_OF[match[1] or match[4]], match[2] or match[3]
    return f"{part}_{SPLIT_WORDS[split]}{dot}{rest}" if split else f"{part}{dot}{rest}"


_LAYOUT = "x_train, y_train, x_test, y_test (or x, y)"


def read_npz(path: Path, *, name: str, classes: tuple[str, ...] | int | None = None) -> Splits:
    """The splits of a `.npz` file; pickled objects are refused, large arrays stay in the file.

    Raises:
        DataError: missing, no `.npz`, or arrays that do not fit each other.
    """
    return splits_from_arrays(read_arrays(path), name=name, classes=classes)


def splits_from_arrays(
    arrays: Mapping[str, np.ndarray], *, name: str, classes: tuple[str, ...] | int | None = None
) -> Splits:
    """Splits from `x_train y_train weight_train ...`, or from `x y weight`; several inputs are `x_train.NAME`.

    Raises:
        DataError: an unknown name, a missing part, lengths that differ, or an empty split.
    """
    listed = ", ".join(arrays) or "nothing"
    names = standardize_names(arrays, name=name)
    others = [f"{key} as {names[key]}" for key in arrays if names[key] != key.lower()]
    notes = (f"{name}: reads {', '.join(others)}",) if others else ()
    arrays = {names[key]: value for key, value in arrays.items()}
    if any(key in arrays or key.startswith("x.") for key in ("x", *arrays)) and "x_train" not in arrays:
        arrays = {_as_train(key): value for key, value in arrays.items()}
    known = {f"{part}_{split}" for part in ("x", "y") for split in SPLIT_NAMES} | {"weight_train"}
    for key in arrays:
        if key.split(".")[0] not in known:
            message = (
                f"{name}: unknown array {key!r}; {did_you_mean(key, known)}expected {_LAYOUT}, found {listed}"
            )
            hint = f"kd reads {', '.join(sorted(known))}; np.savez(path, x=..., y=...) names the arrays"
            raise DataError(message, hint=hint)
    found = {split: _split(arrays, split, name) for split in SPLIT_NAMES}
    if found["train"] is None:
        raise DataError(f"{name}: has no x_train; expected {_LAYOUT}, found {listed}")
    return Splits(name, found["train"], found["validation"], found["test"], classes, notes)


def format_array_name(split: str, key: str) -> str:
    """What an input is called in the file: `x_train`, or `x_train.NAME` where there are several."""
    return f"x_{split}" if key == SINGLE_INPUT else f"x_{split}.{key}"


def _as_train(key: str) -> str:
    head, dot, rest = key.partition(".")
    return f"{head}_train{dot}{rest}" if head in ("x", "y", "weight") else key


def _split(arrays: Mapping[str, np.ndarray], split: str, name: str) -> Examples | None:
    prefix = f"x_{split}."
    inputs = {key.removeprefix(prefix): np.asarray(arrays[key]) for key in arrays if key.startswith(prefix)}
    if f"x_{split}" in arrays:
        inputs[SINGLE_INPUT] = np.asarray(arrays[f"x_{split}"])
    if not inputs:
        alone = next((key for key in arrays if key.split(".")[0] == f"y_{split}"), None)
        if alone is not None and any(key.split(".")[0] == "x_train" for key in arrays):
            raise DataError(f"{name}: has {alone}, but no x_{split}", hint=f"store both, or leave {alone} out")
        return None
    labels, weights = arrays.get(f"y_{split}"), arrays.get(f"weight_{split}")
    head = f"y_{split}."
    named = {key.removeprefix(head): _as_texts(arrays[key]) for key in arrays if key.startswith(head)}
    labels = None if labels is None else _as_texts(labels)
    parts: dict[str, np.ndarray | None] = {format_array_name(split, key): array for key, array in inputs.items()}
    parts |= {f"y_{split}": labels, **{head + key: one for key, one in named.items()}, f"weight_{split}": weights}
    for part, array in parts.items():
        kinds = "biufU" if part.startswith("y") else "biuf"
        if array is not None and (array.ndim == 0 or array.dtype.kind not in kinds):
            raise DataError(f"{name}: {part} must hold numbers, got {array.dtype} of shape {array.shape}")
    lengths = {part: len(array) for part, array in parts.items() if array is not None}
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"{part} {length}" for part, length in lengths.items())
        hint = "every example needs a row in each: store all of them again from the same examples"
        raise DataError(f"{name}: lengths differ: {counts}", hint=hint)
    count = next(iter(lengths.values()))
    if count == 0:
        raise DataError(f"{name}: the {split} split is empty")
    if weights is not None:
        weights = _checked_weights(np.asarray(weights), name, split)
    return Examples(split, inputs, labels, weights, np.arange(count), named_labels=named)


def _as_texts(labels: np.ndarray) -> np.ndarray:
    """Labels as they are, texts in NumPy's own type for them."""
    labels = np.asarray(labels)
    texts = labels.dtype.kind == "O" and all(isinstance(value, str) for value in labels.ravel())
    return labels.astype(str) if texts or labels.dtype.kind == "S" else labels


def _checked_weights(weights: np.ndarray, name: str, split: str) -> np.ndarray:
    wrong = np.flatnonzero(~np.isfinite(weights) | (weights < 0)) if weights.ndim == 1 else np.arange(1)
    if weights.ndim != 1 or len(wrong):
        where = f"at {list_first(wrong)}" if weights.ndim == 1 else f"of shape {weights.shape}"
        raise DataError(f"{name}: weight_{split} must be one number >= 0 for each example; {where} it is not")
    return weights.astype(np.float32)


def list_first(positions: np.ndarray) -> str:
    """`3, 7, 9, 12, 15 and 40 more`, for messages about many examples."""
    shown = ", ".join(str(position) for position in positions[:5])
    return shown + (f" and {len(positions) - 5} more" if len(positions) > 5 else "")
