"""What people call arrays of examples, as kd calls them: `x_train` for `X_train` and `train_images`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kdcli.data.split_names import SPLIT_WORDS
from kdcli.errors import DataError

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
