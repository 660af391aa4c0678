"""Room for what is read once: in memory, or in a temporary file that leaves nothing behind."""

from __future__ import annotations

import array
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import StorageError
from kdcli.runs.mapped_arrays import count_rows_at_once, release_array
from kdcli.runs.writer import storage_error

# Byte strings up to this size together stay in memory.
MEMORY_BYTES = 64_000_000


def create_array(shape: tuple[int, ...], dtype: Any, *, resident_bytes: int) -> np.ndarray:
    """An array to fill; above `resident_bytes` it is mapped from a temporary file.

    Raises:
        StorageError: the disk has no room for it.
    """
    needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if needed <= resident_bytes:
        return np.empty(shape, dtype)
    folder = Path(tempfile.gettempdir())
    try:
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # The file has no name from the start: however the process ends, the space comes back.
        with tempfile.TemporaryFile(prefix="kd-", dir=folder) as file:
            # Room is taken now: a full disk under a mapped file kills the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, needed)
            return np.memmap(file, dtype, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)
    except OSError as error:
        raise storage_error(folder, error, needed=needed) from error


@dataclass(frozen=True, eq=False)
class StoredBytes:
    """Byte strings one after the other, read by number.

    Args:
        content: all bytes, in memory or mapped.
        ends: (n + 1,) where each begins, and where the last one ends.
    """

    content: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends) - 1

    def at(self, rows: np.ndarray) -> list[bytes]:
        """Some of the byte strings."""
        begins, ends = self.ends[rows], self.ends[rows + 1]
        step = count_rows_at_once(int(np.max(ends - begins, initial=0)))
        found = []
        for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True), start=1):
            found.append(self.content[begin:end].tobytes())
            if number % step == 0 or number == len(rows):
                release_array(self.content)
        return found

    def part(self, rows: slice) -> StoredBytes:
        """Neighbouring byte strings, in the same store."""
        return StoredBytes(self.content, self.ends[rows.start : rows.stop + 1])

    def pieces(self) -> Iterator[np.ndarray]:
        """The lengths, and all bytes."""
        yield np.diff(self.ends)
        yield self.content[self.ends[0] : self.ends[-1]]


class BytesWriter:
    """Takes byte strings one after the other; past `memory_bytes` they go to a temporary file without a name.

    Args:
        memory_bytes: up to this size all of them stay in memory.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._file: Any = io.BytesIO()
        self._on_disk = False
        self._ends = array.array("q", [0])

    def __enter__(self) -> BytesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        # What a full disk did not take is tried once more when a file is closed.
        with suppress(OSError):
            self._file.close()

    def append(self, content: bytes) -> None:
        """Take the next one.

        Raises:
            StorageError: the disk is full.
        """
        total = self._ends[-1] + len(content)
        try:
            if not self._on_disk and total > self._memory_bytes:
                taken = self._file.getvalue()
                self._file, self._on_disk = tempfile.TemporaryFile(prefix="kd-"), True
                self._file.write(taken)
            self._file.write(content)
        except OSError as error:
            raise _failed(error, total) from error
        self._ends.append(total)

    def finish(self) -> StoredBytes:
        """All of them, by number.

        Raises:
            StorageError: the disk is full.
        """
        ends = np.array(self._ends, np.int64)
        if not self._on_disk:
            return StoredBytes(np.frombuffer(self._file.getvalue(), np.uint8), ends)
        try:
            self._file.flush()
            return StoredBytes(np.memmap(self._file, np.uint8, "r", shape=(int(ends[-1]),)), ends)
        except OSError as error:
            raise _failed(error, int(ends[-1])) from error


def _failed(error: OSError, needed: int) -> StorageError:
    return storage_error(Path(tempfile.gettempdir()), error, needed=needed)
