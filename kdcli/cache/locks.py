"""Who works on an entry: one process at a time, and the others are told which."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kdcli.cache.folder import add_write_hints
from kdcli.errors import Interrupted, LockedError, StorageError
from kdcli.runs import writer

ENTRY_LOCK_FILE, HOLDER_FILE = ".lock", "holder.json"
_POLL_SECONDS = 0.2
# What is written takes seconds: a temporary file of this age was left by a process that died.
_LEFT_SECONDS = 600.0


def acquire_entry_lock(path: Path) -> FileLock:
    """The lock of the entry in a folder, acquired; nobody is waited for.

    Raises:
        LockedError: a process works there.
        StorageError: the folder cannot be written.
    """
    lock = FileLock(path / ENTRY_LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(
            f"{path} is in use by {describe_holder(path)}", hint="wait until it is done", location=str(path)
        ) from None
    except OSError as error:
        raise writer.storage_error(path, error) from error
    return lock


@contextmanager
def hold_entry(path: Path, *, on_wait: Callable[[str], None], stop: Callable[[], int | None]) -> Iterator[None]:
    """Work on the entry in a folder alone, when nobody else does; what a dead process left is removed.

    Args:
        on_wait: told once who works there.
        stop: gives the exit code to stop waiting with, or None.

    Raises:
        Interrupted: `stop` said so.
        StorageError: the folder cannot be written.
    """
    told = False
    while True:
        try:
            with add_write_hints():
                # Whoever worked there may have removed it.
                writer.make_folder(path)
                lock = acquire_entry_lock(path)
            break
        except LockedError:
            holder = describe_holder(path)
        if not told:
            on_wait(f"waiting for {holder}, which gives the same answers")
            told = True
        code = stop()
        if code is not None:
            raise Interrupted(f"stopped while waiting for {holder}", exit_code=code)
        time.sleep(_POLL_SECONDS)
    try:
        remove_leftovers(path, dead=_process_in(path))
        own = {"process": os.getpid(), "host": socket.gethostname()}
        with add_write_hints():
            writer.write_text(path / HOLDER_FILE, json.dumps(own) + "\n")
        yield
    finally:
        # While it is still held: after that it may be another process's.
        with suppress(OSError):
            (path / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def describe_holder(path: Path) -> str:
    """Who works on the entry in a folder, in words."""
    holder = _holder(path)
    return "another process" if holder is None else f"process {holder[0]} on {holder[1]}"


def remove_leftovers(path: Path, *, dead: int | None = None) -> None:
    """Remove what writing left in a folder: that of the process `dead`, and what is too old to be in work.

    What cannot be removed stays: it is in nobody's way.
    """
    for left in path.glob(f"{writer.TEMPORARY_PREFIX}*"):
        with suppress(OSError, StorageError):
            own = dead is not None and left.name.startswith(f"{writer.TEMPORARY_PREFIX}{dead}-")
            if own or time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                writer.remove(left)


def _process_in(path: Path) -> int | None:
    """The process of this machine that worked there and died."""
    holder = _holder(path)
    return holder[0] if holder is not None and holder[1] == socket.gethostname() else None


def _holder(path: Path) -> tuple[int, str] | None:
    """The process and the host that are written beside the lock."""
    try:
        document = json.loads((path / HOLDER_FILE).read_text("utf-8"))
        return int(document["process"]), str(document["host"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
