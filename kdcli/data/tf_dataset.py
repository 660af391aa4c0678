"""Read a `tf.data.Dataset` of examples into arrays, once."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcli.errors import DataError

# As `tf.data.INFINITE_CARDINALITY`.
_INFINITE = -1
_HINT = "dataset.batch(64) makes batches, dataset.unbatch().batch(64) makes them anew"


def is_tf_dataset(value: Any) -> bool:
    """Whether an object is a `tf.data.Dataset`, without importing TensorFlow."""
    return hasattr(value, "element_spec") and hasattr(value, "as_numpy_iterator")


def read_tf_dataset(dataset: Any) -> dict[str, np.ndarray]:
    """Read all elements, `x` or `(x, y)`, each a batch or one example.

    Args:
        dataset: finite; x is a tensor, or a dictionary of them by input name.

    Returns:
        Arrays by name, as in a `.npz` file: `x` or `x.NAME`, and `y`.

    Raises:
        DataError: no elements or endless ones, elements of another structure, or shapes that do not tell whether
            they are batches.
    """
    if int(dataset.cardinality()) == _INFINITE:
        raise DataError("data: the tf.data.Dataset never ends", hint="leave out repeat()")
    spec = dataset.element_spec
    pair = spec if isinstance(spec, tuple) else (spec,)
    if len(pair) > 2:
        raise DataError(f"data: the elements of a tf.data.Dataset must be x or (x, y), got {len(pair)} components")
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
    """Whether the first axis counts examples: batches have an unknown number of them.

    Raises:
        DataError: the shapes do not tell.
    """
    inputs = list(pair[0].values()) if isinstance(pair[0], dict) else [pair[0]]
    shapes = [spec.shape for spec in (*inputs, *pair[1:])]
    if any(shape.rank is None for shape in shapes):
        raise DataError("data: the elements of the tf.data.Dataset have no known shape", hint=_HINT)
    # A scalar label has no first axis: its element is one example.
    firsts = {next(iter(shape), 0) if shape.rank else 0 for shape in shapes}
    if firsts == {None}:
        return True
    same = len(firsts) == 1 and (len(pair) > 1 or shapes[0].rank == 4)
    if None in firsts or same:
        raise DataError("data: the shapes of the tf.data.Dataset do not tell whether it has batches", hint=_HINT)
    return False
