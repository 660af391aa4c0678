"""Atomic writes: a file appears complete or not at all. All files of kd are written here.

A write goes to a temporary name in the same folder, then fsync, rename, and fsync of the folder. `hook` is called
before each step, so that tests can make the n-th call fail or kill the process.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kdcli.errors import StorageError

TEMPORARY_PREFIX = ".kd-writing-"
# Size of the parts in which a stream is copied.
_PART_BYTES = 1 << 20


def _no_hook(step: str, path: Path) -> None:
    return


hook: Callable[[str, Path], None] = _no_hook


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        StorageError: the disk is full, or the folder cannot be written. No temporary file is left.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}"
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
        _fsync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(path, error, needed=len(content)) from error
        raise


def write_stream(path: Path, stream: IO[bytes], *, max_bytes: int) -> None:
    """Write a file atomically from a stream that may be larger than memory.

    Raises:
        StorageError: the disk is full, or the folder cannot be written. No temporary file is left.
        OSError: the stream failed, or is longer than `max_bytes`.
    """
    written = 0
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}"
    try:
        hook("open", path)
        with open(temporary, "wb") as file:
            while part := stream.read(_PART_BYTES):
                written += len(part)
                if written > max_bytes:
                    raise OSError(f"it has more than {max_bytes:,} bytes")
                _write_part(file, part, path)
        hook("rename", path)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_part(file: IO[bytes], part: bytes, path: Path) -> None:
    try:
        hook("write", path)
        file.write(part)
    except OSError as error:
        raise storage_error(path, error, needed=len(part), retry="run the same command again") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder atomically to a path that does not exist or is an empty folder.

    Raises:
        StorageError: the disk is full, or the target cannot be written. No temporary folder is left.
    """
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{target.name}"
    needed = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    try:
        hook("mkdir", target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        for entry in (source, *sorted(source.rglob("*"))):
            copy = temporary / entry.relative_to(source)
            if entry.is_dir():
                copy.mkdir()
                continue
            hook("open", target / entry.relative_to(source))
            shutil.copyfile(entry, copy)
            hook("fsync", target / entry.relative_to(source))
            _fsync(copy)
        for folder in (entry for entry in (temporary, *temporary.rglob("*")) if entry.is_dir()):
            _fsync(folder)
        hook("rename", target)
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
        hook("fsync_folder", target)
        _fsync(target.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise storage_error(target, error, needed=needed, retry="run the same command again") from error
        raise


@contextmanager
def scratch_folder(needed: int) -> Iterator[Path]:
    """Provide a temporary folder, in memory if there is enough space, else where the system keeps such folders.

    HDF5 crashes the process on a full disk, so the space is checked before anything is written.

    Args:
        needed: bytes that will be written.

    Raises:
        OSError: neither place has enough space.
    """
    memory, parent = Path("/dev/shm"), Path(tempfile.gettempdir())
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > needed:
        parent = memory
    elif shutil.disk_usage(parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with tempfile.TemporaryDirectory(prefix="kd-", dir=parent) as folder:
        yield Path(folder)


def make_folder(path: Path) -> None:
    """Create a folder and its parents.

    Raises:
        StorageError: the folder cannot be created, or its path is a file.
    """
    try:
        hook("mkdir", path)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents; a missing path is not an error.

    Raises:
        StorageError: it cannot be removed.
    """
    try:
        hook("remove", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(
    path: Path, error: OSError, *, needed: int | None = None, retry: str = "run the same command with --resume"
) -> StorageError:
    """Convert an operating system error: path, reason, and for a full disk the bytes needed and free.

    Args:
        path: the file or folder.
        error: the error.
        needed: number of bytes to be written.
        retry: what to do once there is space, for the hint.
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "choose another folder with --out"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(_find_existing_parent(path)).free
        reason = f"disk full ({needed or 0:,} bytes needed, {free:,} bytes free)"
        hint = f"free some space, then {retry}"
    return StorageError(f"{path}: {reason}", hint=hint, location=str(path))


def _find_existing_parent(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
