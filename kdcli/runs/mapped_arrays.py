"""Arrays that lie in files: found behind their views, walked in parts, their pages given back.

Resident memory counts every page of a mapped file that was read, until it is given back; the system keeps what
it has room for, so reading a page again is cheap.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

# Bytes of a part when a whole array is walked.
PART_BYTES = 8 << 20
# Bytes of pages that single rows may touch before they are given back, and what a row touches at most beside
# itself: Linux maps a whole block of its cache, up to 2 MB, where one byte is asked for.
RESIDENT_BYTES = 64 << 20
READAHEAD_BYTES = 2 << 20


@runtime_checkable
class PiecewiseArray(Protocol):
    """What stands for an array and is not one: it knows the plain arrays that its content is made of."""

    def pieces(self) -> Iterator[np.ndarray]:
        """The plain arrays, in order."""
        ...


def find_mapping(array: Any) -> mmap.mmap | None:
    """The file mapping that an array is a view of; None for memory, and for private copies of a file's pages."""
    shared = False
    while array is not None and not isinstance(array, mmap.mmap):
        # Pages of a private mapping (mode `c`) may hold what no file has.
        shared = shared or (isinstance(array, np.memmap) and array.mode in ("r", "r+", "w+"))
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array if shared else None


def release_array(array: Any) -> None:
    """Take the pages of a mapped array out of resident memory, where the system can; their content stays."""
    mapping = find_mapping(array)
    if mapping is not None:
        drop_pages(mapping)


def drop_pages(mapping: mmap.mmap) -> None:
    """Take the pages of a shared mapping out of resident memory, where the system can."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def count_rows_at_once(each: int) -> int:
    """How many single rows of so many bytes may be read before pages are given back."""
    return max(1, RESIDENT_BYTES // max(each, READAHEAD_BYTES))


def read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Some rows of an array, at any places; of a mapped one only a few pages are resident at any time."""
    if find_mapping(array) is None:
        return np.asarray(array[rows])
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)
    step = count_rows_at_once(taken.nbytes // max(len(taken), 1))
    for start in range(0, len(rows), step):
        taken[start : start + step] = array[rows[start : start + step]]
        release_array(array)
    return taken


def iterate_parts(array: Any, *, part_bytes: int = PART_BYTES) -> Iterator[tuple[int, Any]]:
    """The parts of an array with the place of their first row; what was read is given back as one goes."""
    each = max(1, array.nbytes // max(len(array), 1))
    rows = max(1, part_bytes // each)
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]
        release_array(array)
