"""The one place that writes. A file appears whole or not at all.

Temporary name in the same folder, fsync, rename, fsync of the folder. `hook` is called before each step of
each write: tests make it fail or kill the process at the n-th call.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from kdcli.errors import StorageError

TEMPORARY = ".kd-writing-"


def _no_hook(step: str, path: Path) -> None:
    return


hook: Callable[[str, Path], None] = _no_hook


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        StorageError: the disk is full, or the folder cannot be written; nothing temporary is left.
    """
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{path.name}"
    try:
        hook("open", path)
        with open(temporary, "wb") as file:
            hook("write", path)
            file.write(content)
            file.flush()
            hook("fsync", path)
            os.fsync(file.fileno())
        hook("rename", path)
        os.replace(temporary, path)
        hook("fsync_folder", path)
        _fsync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(path, error, needed=len(content)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        StorageError: it cannot be made, or a file is in the way.
    """
    try:
        hook("mkdir", path)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; what is not there is no error."""
    try:
        hook("remove", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError, *, needed: int | None = None) -> StorageError:
    """An operating system error in one line: the path, what is wrong, bytes needed and free."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "choose another folder with --out"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(_existing(path)).free
        reason = f"disk full ({needed or 0} bytes needed, {free} free)"
        hint = "free some space, then run the same command with --resume"
    return StorageError(f"{path}: {reason}", hint=hint, location=str(path))


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
