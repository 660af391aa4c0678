"""Where answers are kept, and how much more may lie there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcli.errors import LockedError, StorageError
from kdcli.runs import writer

CACHE_VARIABLE = "KD_CACHE_DIR"
# The folder of the answers, that of small decisions and that of exported teachers, in the cache.
OUTPUTS_FOLDER, DECISIONS_FOLDER, EXPORTS_FOLDER = "answers", "choices", "exports"
# Of the free disk, where no limit is given.
_SHARE = 5


def find_cache_folder() -> Path:
    """`KD_CACHE_DIR`, or the place where this system keeps caches; it need not be there yet."""
    asked = os.environ.get(CACHE_VARIABLE)
    if asked:
        return Path(os.path.expanduser(asked))
    import platformdirs

    return Path(platformdirs.user_cache_dir("kdcli"))


def is_cache_folder_set() -> bool:
    """Whether somebody said where the cache is."""
    return bool(os.environ.get(CACHE_VARIABLE))


def explain_unusable(folder: Path) -> str | None:
    """Why nothing can be kept in or read from a folder, or None; nothing is written.

    A folder that is there and cannot be written can be used: complete answers are read from it.
    """
    there = _existing(folder)
    if not there.is_dir():
        return f"{there} is a file" if there != folder.absolute() else "it is a file"
    if not os.access(there, os.R_OK | os.X_OK):
        return "it cannot be read"
    if not is_writable(folder) and not (folder / OUTPUTS_FOLDER).is_dir():
        return "it cannot be written"
    return None


def count_cached_bytes(folder: Path) -> int:
    """What lies in a cache."""
    return sum(_bytes_below(folder / name) for name in (OUTPUTS_FOLDER, DECISIONS_FOLDER, EXPORTS_FOLDER))


def count_allowed_bytes(folder: Path, limit: int | None) -> int:
    """What may still be written; 0 where nothing can be.

    Args:
        limit: bytes for all that the cache holds; None is a fifth of the free disk for what comes.

    Raises:
        StorageError: the disk does not tell.
    """
    if not is_writable(folder):
        return 0
    there = _existing(folder)
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise writer.storage_error(there, error) from error
    return free // _SHARE if limit is None else max(0, min(limit - count_cached_bytes(folder), free))


@contextmanager
def add_write_hints() -> Iterator[None]:
    """What cannot be written in the block lies in the cache: its error names the ways on that help there."""
    try:
        yield
    except LockedError:
        raise
    except StorageError as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
        space = "free some space (kd cache ls, kd cache rm), then run the same command with --resume"
        error.hint = space if full else f"another {CACHE_VARIABLE}, or --set teacher.targets=memory"
        raise


def _existing(folder: Path) -> Path:
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    return there


def is_writable(folder: Path) -> bool:
    """Whether answers can be added to a cache; it need not be there yet."""
    places = (_existing(folder), _existing(folder / OUTPUTS_FOLDER))
    return all(place.is_dir() and os.access(place, os.W_OK | os.X_OK) for place in places)


def _bytes_below(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                # Another process has removed it meanwhile.
                continue
    return total
