"""Arrays for what is read once: in memory, or in a temporary file that leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from kdcli.data.feed import RESIDENT_BYTES
from kdcli.runs.writing import storage_error


def new_array(shape: tuple[int, ...], dtype: str, *, resident_bytes: int = RESIDENT_BYTES) -> np.ndarray:
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
