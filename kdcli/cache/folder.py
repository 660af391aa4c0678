"""The folder of the cache, and how much may be written to it."""

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
# Subfolders of the cache: teacher outputs, decisions, exported teachers.
OUTPUTS_FOLDER, DECISIONS_FOLDER, EXPORTS_FOLDER = "answers", "choices", "exports"
# Without a limit, one fifth of the free disk space may be used.
_FREE_SPACE_DIVISOR = 5


def find_cache_folder() -> Path:
    """Return `KD_CACHE_DIR`, or the system's cache folder for kd; it may not exist yet."""
    path = os.environ.get(CACHE_VARIABLE)
    if path:
        return Path(os.path.expanduser(path))
    import platformdirs

    return Path(platformdirs.user_cache_dir("kdcli"))


def is_cache_folder_set() -> bool:
    """Whether `KD_CACHE_DIR` is set."""
    return bool(os.environ.get(CACHE_VARIABLE))


def explain_unusable(folder: Path) -> str | None:
    """Explain why a folder cannot be used as a cache, or return None; nothing is written.

    An existing cache that cannot be written is usable: complete entries are read from it.
    """
    existing = _find_existing_parent(folder)
    if not existing.is_dir():
        return f"{existing} is a file" if existing != folder.absolute() else "it is a file"
    if not os.access(existing, os.R_OK | os.X_OK):
        return "it cannot be read"
    if not is_writable(folder) and not (folder / OUTPUTS_FOLDER).is_dir():
        return "it cannot be written"
    return None


def count_cached_bytes(folder: Path) -> int:
    """Return the size of a cache in bytes."""
    return sum(_count_bytes_below(folder / name) for name in (OUTPUTS_FOLDER, DECISIONS_FOLDER, EXPORTS_FOLDER))


def count_allowed_bytes(folder: Path, limit: int | None) -> int:
    """Return how many bytes may still be written; 0 if the cache cannot be written.

    Args:
        folder: folder of the cache.
        limit: maximum size of the cache in bytes; None allows one fifth of the free disk space.

    Raises:
        StorageError: the free disk space cannot be determined.
    """
    if not is_writable(folder):
        return 0
    existing = _find_existing_parent(folder)
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise writer.storage_error(existing, error) from error
    return free // _FREE_SPACE_DIVISOR if limit is None else max(0, min(limit - count_cached_bytes(folder), free))


@contextmanager
def add_write_hints() -> Iterator[None]:
    """Give storage errors of the block, which writes to the cache, hints that apply to a cache."""
    try:
        yield
    except LockedError:
        raise
    except StorageError as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
        free_space = "free some space (kd cache ls, kd cache rm), then run the same command with --resume"
        error.hint = free_space if full else f"another {CACHE_VARIABLE}, or --set teacher.targets=memory"
        raise


def _find_existing_parent(folder: Path) -> Path:
    existing = folder.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    return existing


def is_writable(folder: Path) -> bool:
    """Whether entries can be added to a cache; it may not exist yet."""
    parents = (_find_existing_parent(folder), _find_existing_parent(folder / OUTPUTS_FOLDER))
    return all(parent.is_dir() and os.access(parent, os.W_OK | os.X_OK) for parent in parents)


def _count_bytes_below(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                # Another process has just removed it.
                continue
    return total
