"""Inputs and outputs that come as lists, dictionaries or both within each other: each tensor by a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.lazy import keras


def leaf_names(structure: Any, own: Sequence[str]) -> tuple[str, ...]:
    """A name for each leaf: its key in a dictionary, else its own; the whole path where two are alike.

    Args:
        structure: tensors in lists, tuples and dictionaries, or one tensor.
        own: what each leaf is called by itself, in the order of `keras.tree.flatten`.
    """
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    names = [
        path[-1] if path and isinstance(path[-1], str) else name for path, name in zip(paths, own, strict=True)
    ]
    return tuple(
        "/".join(str(part) for part in path) if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    )


def leaves(structure: Any) -> list[Any]:
    """Every leaf, in the order of `leaf_names`."""
    return keras.tree.flatten(structure)


def filled(structure: Any, values: Sequence[Any]) -> Any:
    """The same structure with other leaves."""
    return keras.tree.pack_sequence_as(structure, list(values))
