"""Memory-mapped arrays: reading them in rows or parts without keeping their pages in memory.

Resident memory counts every page of a mapped file that was read, until the page is released. The system caches
released pages while it has room, so that reading them again is cheap.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

# Size of a part when a whole array is read in parts.
PART_BYTES = 8 << 20
# Bytes of pages that reading single rows may touch before they are released, and the minimum that one row counts:
# Linux maps a whole block of its cache, up to 2 MB, when one byte is read.
MAX_RESIDENT_BYTES = 64 << 20
READAHEAD_BYTES = 2 << 20


@runtime_checkable
class PiecewiseArray(Protocol):
    """A stand-in for an array whose content is a sequence of NumPy arrays."""

    def pieces(self) -> Iterator[np.ndarray]:
        """Iterate over the NumPy arrays, in order."""
        ...


def find_mapping(array: Any) -> mmap.mmap | None:
    """Find the file mapping behind an array; None for arrays in memory and for private mappings."""
    shared = False
    while array is not None and not isinstance(array, mmap.mmap):
        # Pages of a private mapping (mode `c`) may differ from the file.
        shared = shared or (isinstance(array, np.memmap) and array.mode in ("r", "r+", "w+"))
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array if shared else None


def release_array(array: Any) -> None:
    """Release the pages of a mapped array from resident memory, if the system supports it."""
    mapping = find_mapping(array)
    if mapping is not None:
        drop_pages(mapping)


def drop_pages(mapping: mmap.mmap) -> None:
    """Release the pages of a shared mapping from resident memory, if the system supports it."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def count_rows_at_once(row_bytes: int) -> int:
    """Return how many single rows of a size may be read before their pages are released."""
    return max(1, MAX_RESIDENT_BYTES // max(row_bytes, READAHEAD_BYTES))


def read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Read rows of an array, in any order; of a mapped array only a few pages are resident at any time.

    Args:
        array: an array, mapped or in memory.
        rows: (n,) row indices.
    """
    if find_mapping(array) is None:
        return np.asarray(array[rows])
    values = np.empty((len(rows), *array.shape[1:]), array.dtype)
    step = count_rows_at_once(values.nbytes // max(len(values), 1))
    for start in range(0, len(rows), step):
        values[start : start + step] = array[rows[start : start + step]]
        release_array(array)
    return values


def iterate_parts(array: Any, *, part_bytes: int = PART_BYTES) -> Iterator[tuple[int, Any]]:
    """Iterate over (first row, part) of an array; the pages of a part are released before the next one.

    Args:
        array: an array, mapped or in memory.
        part_bytes: size of a part; at least one row.
    """
    row_bytes = max(1, array.nbytes // max(len(array), 1))
    rows = max(1, part_bytes // row_bytes)
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]
        release_array(array)
