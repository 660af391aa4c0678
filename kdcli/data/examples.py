"""Examples read by index: a split, the arrays behind it, and the splits of a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from kdcli.runs.mapped_arrays import PiecewiseArray, read_rows

# Name of the input when a source has only one.
SINGLE_INPUT = "x"


class RowArray(Protocol):
    """Array interface that examples need: a NumPy array in memory or in a file, or an object that yields rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, number of rows first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Read rows as a NumPy array, by positions or by slice."""
        ...

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of all rows as an array, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Examples:
    """One split, read by position.

    Args:
        split: `train`, `validation` or `test`.
        inputs: arrays (n, ...) by input name; a single input is called `x`.
        labels: (n,) classes, or (n, ...) values; None when the data has none.
        weights: (n,) float32 sample weights, or None.
        rows: rows of the arrays that this split uses, in order; the position in it is the example index.
        soft_labels: (n, ..., classes) probabilities where labels are soft; `labels` then holds the most likely
            class.
        named_labels: labels by the name of their output, until one of them is selected.
    """

    split: str
    inputs: Mapping[str, RowArray]
    labels: np.ndarray | None
    weights: np.ndarray | None
    rows: np.ndarray
    soft_labels: np.ndarray | None = None
    named_labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Read the raw inputs at the given positions.

        Raises:
            DataError: an encoded image is damaged.
        """
        rows = self.rows[positions]
        return {name: read_rows(array, rows) for name, array in self.inputs.items()}

    def labels_at(self, positions: np.ndarray) -> np.ndarray | None:
        """Read the labels at the given positions; None without labels."""
        return None if self.labels is None else self.labels[self.rows[positions]]

    def all_labels(self) -> np.ndarray | None:
        """Read all labels, in order; None without labels."""
        return None if self.labels is None else self.labels[self.rows]

    def training_labels(self) -> np.ndarray | None:
        """Read the labels that label losses use, in order: the soft labels if there are any."""
        return self.all_labels() if self.soft_labels is None else self.soft_labels[self.rows]

    def label_map_shape(self, task: str) -> tuple[int, ...] | None:
        """Shape of one label map; () when an example has one class or one row; None without labels."""
        if self.labels is None:
            return None
        return tuple(
            self.labels.shape[1:] if task in ("segmentation", "classification") else self.labels.shape[1:-1]
        )

    def subset(self, positions: np.ndarray, *, split: str | None = None) -> Examples:
        """Select the examples at the given positions as a split, without copying arrays."""
        return replace(self, rows=self.rows[positions], split=split or self.split)

    @property
    def content(self) -> list[Any]:
        """Raw inputs for a hash, preceded by their names when there are several."""
        if len(self.inputs) == 1:
            return list(self.inputs.values())
        names = sorted(self.inputs)
        return [part for name in names for part in (np.frombuffer(name.encode(), np.uint8), self.inputs[name])]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one example, by input name."""
        return {name: tuple(array.shape[1:]) for name, array in self.inputs.items()}

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Type of the raw values, by input name."""
        return {name: array.dtype for name, array in self.inputs.items()}

    @property
    def bytes(self) -> int:
        """Size of the raw inputs of this split, in bytes."""
        return sum(array.nbytes // max(len(array), 1) * len(self) for array in self.inputs.values())


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The content of a source.

    Args:
        name: name of the data in messages.
        train, validation, test: the splits that the source has.
        classes: class names in label order, or their number, if the source defines them.
        notes: sentences for the user about how the source was read.
        columns: column names of a table, in the order of the input values.
    """

    name: str
    train: Examples
    validation: Examples | None = None
    test: Examples | None = None
    classes: tuple[str, ...] | int | None = None
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Concatenation(RowArray):
    """Rows of several arrays behind the interface of one array, without copying them.

    Args:
        arrays: arrays with the same row shape.
        rows: for each array, the rows to use.
    """

    arrays: Sequence[RowArray]
    rows: Sequence[np.ndarray]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(rows) for rows in self.rows])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, number of rows first."""
        return (int(self._ends[-1]), *self.arrays[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type that holds the values of every array."""
        return np.result_type(*(array.dtype for array in self.arrays))

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """Read rows by positions or by slice."""
        positions = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        found = np.empty((len(positions), *self.shape[1:]), self.dtype)
        owners = np.searchsorted(self._ends, positions, side="right")
        for number in np.unique(owners):
            mine = owners == number
            array, start = self.arrays[number], self._ends[number] - len(self.rows[number])
            found[mine] = read_rows(array, self.rows[number][positions[mine] - start])
        return found

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the content of the arrays and their rows, for a fingerprint."""
        for array, rows in zip(self.arrays, self.rows, strict=True):
            yield from array.pieces() if isinstance(array, PiecewiseArray) else (np.asarray(array),)
            yield rows
