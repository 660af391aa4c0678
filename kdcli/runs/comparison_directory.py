"""A comparison on disk: its report, and below it a run for every arm and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdcli.errors import UsageError
from kdcli.runs import writer
from kdcli.runs.directory import MARKER_FILE, RUN_LOCK_FILE, RUN_NAMES, acquire_run_lock, choose_run_folder

REPORT_FILE, TABLES_FILE = "compare.json", "compare.md"


class ComparisonDirectory:
    """Where a comparison goes. Several processes may share it: each run in it has a lock of its own.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._overwrite = overwrite

    report = property(lambda self: self.path / REPORT_FILE)
    tables = property(lambda self: self.path / TABLES_FILE)

    @classmethod
    def find(cls, out: str | Path | None, name: str, *, resume: bool, overwrite: bool) -> ComparisonDirectory:
        """The directory, if a comparison may go there; nothing is written.

        Raises:
            UsageError: it holds something and neither `resume` nor `overwrite` fits.
        """
        if resume and overwrite:
            raise UsageError("--resume and --overwrite exclude each other: continue the comparison, or delete it")
        if resume and out is None:
            raise UsageError("--resume needs the comparison to continue", hint="--out runs/NAME --resume")
        path = Path(out) if out is not None else choose_run_folder("compare", name)
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out {path} is a file, not a folder", hint="choose another --out")
        held = sorted(entry.name for entry in path.iterdir() if not _nothing(entry.name)) if path.is_dir() else []
        if held and not resume and not overwrite:
            raise UsageError(
                f"--out {path} is not empty ({held[0]}{', ...' if len(held) > 1 else ''})",
                hint="another --out, --resume to continue it, or --overwrite to delete the comparison in it",
            )
        if held and not _is_comparison(path):
            raise UsageError(
                f"--out {path} holds files that are no comparison ({held[0]})",
                hint="choose another --out; kd deletes and continues only what it wrote itself",
            )
        return cls(path, overwrite=overwrite and bool(held))

    def open(self, inputs: Iterable[Path] = ()) -> None:
        """Make the directory, or empty it with `overwrite`; an input is never deleted.

        Raises:
            UsageError: an input or a foreign file lies in what would be deleted.
            LockedError: another process works in one of its runs.
        """
        if self._overwrite:
            self._clear(inputs)
        writer.make_folder(self.path)
        if not (self.path / MARKER_FILE).exists():
            writer.write_text(self.path / MARKER_FILE, json.dumps({"comparison": True}))

    def earlier(self) -> dict[str, Any] | None:
        """The report that lies there, None where there is none that can be read."""
        try:
            return json.loads(self.report.read_text("utf-8"))
        except (OSError, ValueError):
            return None

    @contextmanager
    def hold_report_lock(self) -> Iterator[None]:
        """Alone at the end: processes that share a comparison do not time their models at the same moment."""
        with FileLock(self.path / RUN_LOCK_FILE):
            try:
                yield
            finally:
                # While it is still held, as in a run.
                (self.path / RUN_LOCK_FILE).unlink(missing_ok=True)

    def _clear(self, inputs: Iterable[Path]) -> None:
        for given in inputs:
            if given.exists() and given.resolve().is_relative_to(self.path.resolve()):
                raise UsageError(f"--overwrite would delete an input: {given}", hint="choose another --out")
        for lock in self.path.rglob(RUN_LOCK_FILE):
            acquire_run_lock(lock.parent).release()
        for entry in self.path.rglob("*"):
            if entry.is_file() and not self._ours(entry):
                raise UsageError(
                    f"--overwrite would delete what kd did not write: {entry}",
                    hint="move it away, or choose another --out",
                )
        for entry in list(self.path.iterdir()):
            writer.remove(entry)

    def _ours(self, file: Path) -> bool:
        if file.name.startswith(writer.TEMPORARY_PREFIX):
            return True
        if file.parent == self.path:
            return file.name in (REPORT_FILE, TABLES_FILE, MARKER_FILE, RUN_LOCK_FILE)
        run = next((folder for folder in file.parents if (folder / MARKER_FILE).exists()), self.path)
        if run == self.path:
            return False
        return file.relative_to(run).parts[0] in (*RUN_NAMES, MARKER_FILE, RUN_LOCK_FILE)


def _nothing(name: str) -> bool:
    """What a process leaves behind that did not get to anything."""
    return name in (MARKER_FILE, RUN_LOCK_FILE) or name.startswith(writer.TEMPORARY_PREFIX)


def _is_comparison(path: Path) -> bool:
    try:
        return bool(json.loads((path / MARKER_FILE).read_text("utf-8")).get("comparison"))
    except (OSError, ValueError):
        return False
