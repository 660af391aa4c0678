"""Examples read by index: a split, the arrays behind it, and the splits of a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from kdcli.runs.mapped_arrays import PiecewiseArray, read_rows

# The name of the input when a source has only one.
SINGLE_INPUT = "x"


class RowArray(Protocol):
    """What examples need of an array: a NumPy array in memory or in a file, or what gives one row by row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """With the number of rows first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        ...

    @property
    def ndim(self) -> int:
        """How many axes."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take as an array."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Some rows as a NumPy array: positions, or a slice."""
        ...


@dataclass(frozen=True)
class Examples:
    """One split, read by position.

    Args:
        split: `train`, `validation` or `test`.
        inputs: arrays (n, ...) by input name; a single input is called `x`.
        labels: (n,) classes, or (n, ...) values; None when the data has none.
        weights: (n,) float32 sample weights, or None.
        rows: which rows of the arrays this split uses, in order; the position in it is the example index.
        soft_labels: (n, ..., classes) probabilities where labels are soft; `labels` are their largest then.
        named_labels: labels by the name of the output that they are for, until one is chosen.
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
        """The raw inputs at some positions.

        Raises:
            DataError: a picture that is kept encoded is damaged.
        """
        rows = self.rows[positions]
        return {name: read_rows(array, rows) for name, array in self.inputs.items()}

    def labels_at(self, positions: np.ndarray) -> np.ndarray | None:
        """The labels at some positions, None without labels."""
        return None if self.labels is None else self.labels[self.rows[positions]]

    def all_labels(self) -> np.ndarray | None:
        """Every label, in order."""
        return None if self.labels is None else self.labels[self.rows]

    def training_labels(self) -> np.ndarray | None:
        """What label losses compare with, in order: soft labels where there are some."""
        return self.all_labels() if self.soft_labels is None else self.soft_labels[self.rows]

    def label_map_shape(self, task: str) -> tuple[int, ...] | None:
        """The sides of a map of labels, () where an example has a class or a row; None without labels."""
        if self.labels is None:
            return None
        return tuple(
            self.labels.shape[1:] if task in ("segmentation", "classification") else self.labels.shape[1:-1]
        )

    def subset(self, positions: np.ndarray, *, split: str | None = None) -> Examples:
        """The examples at some positions as a split of their own, without copying the arrays."""
        return replace(self, rows=self.rows[positions], split=split or self.split)

    @property
    def content(self) -> list[Any]:
        """The raw inputs with their names, where there are several, for a hash over them."""
        if len(self.inputs) == 1:
            return list(self.inputs.values())
        names = sorted(self.inputs)
        return [part for name in names for part in (np.frombuffer(name.encode(), np.uint8), self.inputs[name])]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one example, by input name."""
        return {name: tuple(array.shape[1:]) for name, array in self.inputs.items()}

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """The type of the raw values, by input name."""
        return {name: array.dtype for name, array in self.inputs.items()}

    @property
    def bytes(self) -> int:
        """Bytes of the raw inputs of this split."""
        return sum(array.nbytes // max(len(array), 1) * len(self) for array in self.inputs.values())


@dataclass(frozen=True)
class Splits:
    """What a source holds.

    Args:
        name: what messages call the data.
        train, validation, test: the splits that it has.
        classes: class names in label order, or how many, where the source knows.
        notes: sentences about how it was read, for people.
        columns: the names of a table's columns in the order of the inputs' values.
    """

    name: str
    train: Examples
    validation: Examples | None = None
    test: Examples | None = None
    classes: tuple[str, ...] | int | None = None
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Concatenation:
    """Rows of some arrays, as if they were one.

    Args:
        arrays: with equal shapes of a row.
        rows: of each array, those that are meant.
    """

    arrays: Sequence[RowArray]
    rows: Sequence[np.ndarray]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(rows) for rows in self.rows])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """With the number of rows first."""
        return (len(self), *self.arrays[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that all values fit in."""
        return np.result_type(*(array.dtype for array in self.arrays))

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take as an array."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, wanted: Any) -> np.ndarray:
        """Some rows: positions, or a slice."""
        places = np.arange(*wanted.indices(len(self))) if isinstance(wanted, slice) else np.asarray(wanted)
        taken = np.empty((len(places), *self.shape[1:]), self.dtype)
        owners = np.searchsorted(self._ends, places, side="right")
        for number in np.unique(owners):
            mine = owners == number
            array, start = self.arrays[number], self._ends[number] - len(self.rows[number])
            taken[mine] = read_rows(array, self.rows[number][places[mine] - start])
        return taken

    def pieces(self) -> Iterator[np.ndarray]:
        """The content of the arrays and their rows, for a fingerprint."""
        for array, rows in zip(self.arrays, self.rows, strict=True):
            yield from array.pieces() if isinstance(array, PiecewiseArray) else (np.asarray(array),)
            yield rows
