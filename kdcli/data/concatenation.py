"""Several arrays one after the other, each where it is: data of all splits without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kdcli.data.examples import RowArray
from kdcli.runs.mapped_arrays import PiecewiseArray, read_rows


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
