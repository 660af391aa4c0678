"""A directory with a report and many runs, which several processes may share: a comparison or a search."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from filelock import FileLock, Timeout

from kdcli.errors import Interrupted, UsageError
from kdcli.runs import writer
from kdcli.runs.directory import (
    MARKER_FILE,
    RUN_LOCK_FILE,
    RUN_NAMES,
    acquire_run_lock,
    check_no_input_in,
    choose_run_folder,
    list_contents,
    make_foreign_file_error,
)

# Seconds between two checks whether to stop waiting.
_WAIT_SECONDS = 0.5


class SharedDirectory:
    """Several processes may work in the directory at a time: each run in it has its own lock.

    Args:
        path: the directory.
        overwrite: whether `open` deletes what is in it.
    """

    # What the directory holds, its key in the marker, and the command that writes it.
    content: ClassVar[str]
    command: ClassVar[str]
    # The files in it that are not those of runs, by name or path.
    files: ClassVar[Collection[str]] = ()

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._overwrite = overwrite

    @classmethod
    def find(cls, out: str | Path | None, name: str, *, resume: bool, overwrite: bool) -> Self:
        """Find the directory and check that it may be used; nothing is written.

        Args:
            out: the `--out` of the command, or None for a new folder.
            name: the end of the name of a new folder.
            resume: continue what is in the directory.
            overwrite: delete what is in the directory.

        Raises:
            UsageError: the directory is not empty, and neither `resume` nor `overwrite` applies.
        """
        if resume and overwrite:
            raise UsageError("--resume and --overwrite cannot be combined")
        if resume and out is None:
            message = f"--resume needs --out with the {cls.content} to continue"
            raise UsageError(message, hint="--out runs/NAME --resume")
        path = Path(out) if out is not None else choose_run_folder(cls.command, name)
        contents = list_contents(path)
        if contents and not resume and not overwrite:
            raise UsageError(
                f"--out {path} is not empty ({contents[0]}{', ...' if len(contents) > 1 else ''})",
                hint=f"another --out, --resume to continue the {cls.content} in it, or --overwrite to delete it",
            )
        if contents and not cls._is_marked(path):
            raise UsageError(
                f"--out {path} contains files but no {cls.content} ({contents[0]})",
                hint="choose another --out; kd deletes and continues only what it wrote",
            )
        return cls(path, overwrite=overwrite and bool(contents))

    def open(self, inputs: Iterable[Path] = ()) -> None:
        """Create the directory; with `overwrite`, empty it first.

        Args:
            inputs: files that must not be deleted.

        Raises:
            UsageError: `overwrite` would delete an input, or a file that kd did not write.
            LockedError: another process is using one of its runs.
        """
        if self._overwrite:
            self._clear(inputs)
        writer.make_folder(self.path)
        if not (self.path / MARKER_FILE).exists():
            writer.write_text(self.path / MARKER_FILE, json.dumps({self.content: True}))

    @contextmanager
    def hold_lock(self, stop: Callable[[], int | None] = lambda: None) -> Iterator[None]:
        """Let only one process at a time decide, measure latency, or write the report.

        The file of the lock stays: a process that waits for it must not hold the lock of a deleted file.

        Args:
            stop: called while waiting; a returned exit code ends the waiting.

        Raises:
            Interrupted: `stop` returned an exit code.
        """
        lock = FileLock(self.path / RUN_LOCK_FILE)
        while True:
            try:
                lock.acquire(timeout=_WAIT_SECONDS)
                break
            except Timeout:
                code = stop()
                if code is not None:
                    raise Interrupted(
                        "stopped while waiting for another process", exit_code=code, run=self.path
                    ) from None
        try:
            yield
        finally:
            lock.release()

    def _clear(self, inputs: Iterable[Path]) -> None:
        check_no_input_in(self.path, inputs)
        for lock in self.path.rglob(RUN_LOCK_FILE):
            acquire_run_lock(lock.parent).release()
        for entry in self.path.rglob("*"):
            if entry.is_file() and not self._is_ours(entry):
                raise make_foreign_file_error(entry)
        for entry in list(self.path.iterdir()):
            writer.remove(entry)

    def _is_ours(self, file: Path) -> bool:
        if file.name.startswith(writer.TEMPORARY_PREFIX):
            return True
        if file.parent == self.path and file.name in (MARKER_FILE, RUN_LOCK_FILE):
            return True
        if self._is_own_file(file.relative_to(self.path)):
            return True
        run = next((folder for folder in file.parents if (folder / MARKER_FILE).exists()), self.path)
        if run == self.path:
            return False
        return file.relative_to(run).parts[0] in (*RUN_NAMES, MARKER_FILE, RUN_LOCK_FILE)

    def _is_own_file(self, file: Path) -> bool:
        """Whether a file, relative to the directory, is one that kd writes outside of the runs."""
        return str(file) in self.files

    @classmethod
    def _is_marked(cls, path: Path) -> bool:
        return bool(read_json_object(path / MARKER_FILE).get(cls.content))


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON document; empty if there is no valid one."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
