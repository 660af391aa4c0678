"""A comparison on disk: its report, and a run directory for each arm and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdcli.errors import UsageError
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

REPORT_FILE, TABLES_FILE = "compare.json", "compare.md"


class ComparisonDirectory:
    """The directory of a comparison. Several processes may share it: each run in it has its own lock.

    Args:
        path: the directory.
        overwrite: whether `open` deletes the comparison in it.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._overwrite = overwrite

    report = property(lambda self: self.path / REPORT_FILE)
    tables = property(lambda self: self.path / TABLES_FILE)

    @classmethod
    def find(cls, out: str | Path | None, name: str, *, resume: bool, overwrite: bool) -> ComparisonDirectory:
        """Find the directory for a comparison and check that it may be used; nothing is written.

        Args:
            out: the `--out` of the command, or None for a new folder.
            name: name of the recipe, for the new folder.
            resume: continue the comparison in the directory.
            overwrite: delete the comparison in the directory.

        Raises:
            UsageError: the directory is not empty, and neither `resume` nor `overwrite` applies.
        """
        if resume and overwrite:
            raise UsageError("--resume and --overwrite cannot be combined")
        if resume and out is None:
            message = "--resume needs --out with the comparison to continue"
            raise UsageError(message, hint="--out runs/NAME --resume")
        path = Path(out) if out is not None else choose_run_folder("compare", name)
        contents = list_contents(path)
        if contents and not resume and not overwrite:
            raise UsageError(
                f"--out {path} is not empty ({contents[0]}{', ...' if len(contents) > 1 else ''})",
                hint="another --out, --resume to continue the comparison in it, or --overwrite to delete it",
            )
        if contents and not _is_comparison(path):
            raise UsageError(
                f"--out {path} contains files but no comparison ({contents[0]})",
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
            writer.write_text(self.path / MARKER_FILE, json.dumps({"comparison": True}))

    def earlier(self) -> dict[str, Any] | None:
        """Read the report in the directory; None if there is no valid one."""
        try:
            return json.loads(self.report.read_text("utf-8"))
        except (OSError, ValueError):
            return None

    @contextmanager
    def hold_report_lock(self) -> Iterator[None]:
        """Let only one process write the report, so that no two measure latency at the same time."""
        with FileLock(self.path / RUN_LOCK_FILE):
            try:
                yield
            finally:
                # Before the release, as in a run.
                (self.path / RUN_LOCK_FILE).unlink(missing_ok=True)

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
        if file.parent == self.path:
            return file.name in (REPORT_FILE, TABLES_FILE, MARKER_FILE, RUN_LOCK_FILE)
        run = next((folder for folder in file.parents if (folder / MARKER_FILE).exists()), self.path)
        if run == self.path:
            return False
        return file.relative_to(run).parts[0] in (*RUN_NAMES, MARKER_FILE, RUN_LOCK_FILE)


def _is_comparison(path: Path) -> bool:
    try:
        return bool(json.loads((path / MARKER_FILE).read_text("utf-8")).get("comparison"))
    except (OSError, ValueError):
        return False
