"""Locks on entries: one process works on an entry at a time, and the others learn which one."""

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
# A write takes seconds: a temporary file older than this was left by a process that died.
_LEFTOVER_SECONDS = 600.0


def acquire_entry_lock(path: Path) -> FileLock:
    """Acquire the lock of the entry in a folder without waiting.

    Raises:
        LockedError: another process holds it.
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
    """Hold the lock of the entry in a folder, waiting for other processes; leftovers of dead ones are removed.

    Args:
        path: folder of the entry.
        on_wait: called once with a message that names the other process.
        stop: returns the exit code with which to stop waiting, or None.

    Raises:
        Interrupted: `stop` returned an exit code.
        StorageError: the folder cannot be written.
    """
    reported = False
    while True:
        try:
            with add_write_hints():
                # Another process may have removed it.
                writer.make_folder(path)
                lock = acquire_entry_lock(path)
            break
        except LockedError:
            holder = describe_holder(path)
        if not reported:
            on_wait(f"waiting for {holder}, which is computing the same outputs")
            reported = True
        code = stop()
        if code is not None:
            raise Interrupted(f"stopped while waiting for {holder}", exit_code=code)
        time.sleep(_POLL_SECONDS)
    try:
        remove_leftovers(path, dead=_read_local_process(path))
        holder_record = {"process": os.getpid(), "host": socket.gethostname()}
        with add_write_hints():
            writer.write_text(path / HOLDER_FILE, json.dumps(holder_record) + "\n")
        yield
    finally:
        # Before the release: afterwards the file may belong to another process.
        with suppress(OSError):
            (path / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def describe_holder(path: Path) -> str:
    """Describe the process that works on the entry in a folder."""
    holder = _read_holder(path)
    return "another process" if holder is None else f"process {holder[0]} on {holder[1]}"


def remove_leftovers(path: Path, *, dead: int | None = None) -> None:
    """Remove temporary files: those of the process `dead`, and those too old to be in use.

    Files that cannot be removed stay; they do no harm.

    Args:
        path: the folder.
        dead: id of a process of this machine that died, or None.
    """
    for file in path.glob(f"{writer.TEMPORARY_PREFIX}*"):
        with suppress(OSError, StorageError):
            from_dead = dead is not None and file.name.startswith(f"{writer.TEMPORARY_PREFIX}{dead}-")
            if from_dead or time.time() - file.stat().st_mtime > _LEFTOVER_SECONDS:
                writer.remove(file)


def _read_local_process(path: Path) -> int | None:
    """Read the id of the process of this machine that worked here and died."""
    holder = _read_holder(path)
    return holder[0] if holder is not None and holder[1] == socket.gethostname() else None


def _read_holder(path: Path) -> tuple[int, str] | None:
    """Read the process id and host of the process that holds the lock."""
    try:
        document = json.loads((path / HOLDER_FILE).read_text("utf-8"))
        return int(document["process"]), str(document["host"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
