"""Read a `tf.data.Dataset` of examples into arrays, once."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcli.errors import DataError


def is_tf_dataset(value: Any) -> bool:
    """Whether an object is a `tf.data.Dataset`, without importing TensorFlow."""
    return hasattr(value, "element_spec") and hasattr(value, "as_numpy_iterator")


def read_tf_dataset(dataset: Any) -> dict[str, np.ndarray]:
    """Read all elements, `x` or `(x, y)`, in batches or one example each.

    Args:
        dataset: finite; x is a tensor, or a dictionary of them by input name.

    Returns:
        Arrays by name, as in a `.npz` file: `x` or `x.NAME`, and `y`.

    Raises:
        DataError: no elements, or elements of another structure.
    """
    spec = dataset.element_spec
    pair = spec if isinstance(spec, tuple) else (spec,)
    if len(pair) > 2:
        raise DataError("data: the elements of a tf.data.Dataset must be x or (x, y)")
    batched = _is_batched(pair)
    parts: dict[str, list[np.ndarray]] = {}
    for element in dataset.as_numpy_iterator():
        values = element if isinstance(spec, tuple) else (element,)
        for name, array in _name_arrays(values).items():
            parts.setdefault(name, []).append(array if batched else np.asarray(array)[None])
    if not parts:
        raise DataError("data: the tf.data.Dataset has no elements")
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _name_arrays(values: tuple[Any, ...]) -> dict[str, np.ndarray]:
    named = {f"x.{key}": value for key, value in values[0].items()} if isinstance(values[0], dict) else {}
    named = named or {"x": values[0]}
    return {**named, "y": values[1]} if len(values) == 2 else named


def _is_batched(pair: tuple[Any, ...]) -> bool:
    """Whether the first axis counts examples: it is the same for inputs and labels, or of unknown size."""
    inputs = list(pair[0].values()) if isinstance(pair[0], dict) else [pair[0]]
    shapes = [tuple(spec.shape) for spec in (*inputs, *pair[1:])]
    if any(not shape for shape in shapes):
        return False
    firsts = {shape[0] for shape in shapes}
    if len(pair) == 1:
        return None in firsts or len(shapes[0]) == 4
    return len(firsts) == 1
