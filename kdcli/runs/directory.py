"""A run on disk: the one place that knows the file names in a run directory."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdcli.errors import LockedError, StorageError, UsageError
from kdcli.runs import writer

MARKER_FILE = ".kd"
RUN_LOCK_FILE = ".kd.lock"
STUDENT_FILE, TEACHER_FILE = "student.keras", "teacher.keras"
# What was opened from a SavedModel and trained is a SavedModel again.
STUDENT_FOLDER, TEACHER_FOLDER = "student_saved_model", "teacher_saved_model"
STUDENT_NAMES, MODEL_NAMES = (
    (STUDENT_FILE, STUDENT_FOLDER),
    (STUDENT_FILE, STUDENT_FOLDER, TEACHER_FILE, TEACHER_FOLDER),
)
SUMMARY_FILE, RECIPE_FILE, ENVIRONMENT_FILE = "summary.json", "recipe.yaml", "environment.json"
METRICS_FILE, PREDICTIONS_FILE, README_FILE, CHECKPOINT_FOLDER = (
    "metrics.jsonl",
    "predictions.npz",
    "README.md",
    "checkpoint",
)
# Earlier distillations of a chain, each a run, and beside them the recipe that lists them all.
STAGES_FOLDER = "stages"
RUN_NAMES = (
    *MODEL_NAMES,
    SUMMARY_FILE,
    RECIPE_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    README_FILE,
    CHECKPOINT_FOLDER,
    STAGES_FOLDER,
)


class Run:
    """A run directory, open for writing by this process alone (or, without a lock, for reading).

    Args:
        path: the directory.
        died: whether the last process that worked in it ended without a word.
    """

    def __init__(self, path: Path, *, died: bool, lock: FileLock | None) -> None:
        self.path = path
        self.crashed = died
        self._lock = lock

    model = property(lambda self: self.path / STUDENT_FILE)
    teacher = property(lambda self: self.path / TEACHER_FILE)
    summary = property(lambda self: self.path / SUMMARY_FILE)
    recipe = property(lambda self: self.path / RECIPE_FILE)
    metrics = property(lambda self: self.path / METRICS_FILE)
    predictions = property(lambda self: self.path / PREDICTIONS_FILE)
    environment = property(lambda self: self.path / ENVIRONMENT_FILE)
    readme = property(lambda self: self.path / README_FILE)
    checkpoint = property(lambda self: self.path / CHECKPOINT_FOLDER)

    def path_of_model(self, role: str, *, folder: bool) -> Path:
        """Where the model of a role goes: a `.keras` file, or the folder of a SavedModel."""
        names = {"student": (STUDENT_FILE, STUDENT_FOLDER), "teacher": (TEACHER_FILE, TEACHER_FOLDER)}
        return self.path / names[role][folder]

    @classmethod
    def open(cls, path: Path, *, resume: bool, overwrite: bool, inputs: Iterable[Path] = ()) -> Run:
        """Open a directory for a new run, or an unfinished one with `resume`.

        Raises:
            UsageError: it holds something and neither `resume` nor `overwrite` fits.
            StorageError: it cannot be written, or another process works in it.
        """
        held = check_run_folder(path, resume=resume, overwrite=overwrite)
        made = not path.exists()
        writer.make_folder(path)
        lock = None
        try:
            lock = acquire_run_lock(path)
            for left in path.rglob(f"{writer.TEMPORARY_PREFIX}*"):
                writer.remove(left)
            if held and overwrite and not resume:
                _clear(path, inputs)
                held = []
            died = bool(held) and not read_json(path / MARKER_FILE).get("ended", False)
            _mark(path, ended=False)
        except BaseException:
            if lock is not None:
                lock.release()
                (path / RUN_LOCK_FILE).unlink(missing_ok=True)
            if made:
                shutil.rmtree(path, ignore_errors=True)
            raise
        return cls(path, died=died, lock=lock)

    @classmethod
    def followed(cls, path: Path) -> Run:
        """The directory in which the chief of several workers writes, for another one of them."""
        return cls(path, died=False, lock=None)

    def close(self) -> None:
        """Let others have the directory, and say that this process got to its end."""
        if self._lock is None:
            return
        try:
            _mark(self.path, ended=True)
        finally:
            # While it is still held: after the release it may be another process's lock.
            (self.path / RUN_LOCK_FILE).unlink(missing_ok=True)
            self._lock.release()


def check_run_folder(path: Path, *, resume: bool, overwrite: bool) -> list[str]:
    """What a directory holds, when a run may go there; writes nothing.

    Raises:
        UsageError: it holds something and neither `resume` nor `overwrite` fits.
    """
    held = _contents(path)
    if held and not resume and not overwrite:
        raise UsageError(
            f"--out {path} is not empty ({held[0]}{', ...' if len(held) > 1 else ''})",
            hint="another --out, --resume to continue it, or --overwrite to delete the run in it",
        )
    if held and not (path / MARKER_FILE).exists():
        raise UsageError(
            f"--out {path} holds files that kd did not write ({held[0]})",
            hint="choose another --out; kd deletes and continues only what it wrote itself",
        )
    if (path / RUN_LOCK_FILE).exists():
        # Several workers may look at the same time: each holds it for a moment.
        acquire_run_lock(path, seconds=0.5).release()
    return held


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document of a run.

    Raises:
        StorageError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise writer.storage_error(path, error) from error
    except ValueError as error:
        raise StorageError(f"{path}: not readable as JSON: {error}", hint="start anew with --overwrite") from None


def wait_for_summary(path: Path, *, timeout_seconds: float = 60.0) -> dict[str, Any]:
    """The summary that another machine has just written: a shared file system may show it late.

    Raises:
        StorageError: it does not show within the seconds.
    """
    until = time.monotonic() + timeout_seconds
    while not (path / SUMMARY_FILE).exists() and time.monotonic() < until:
        time.sleep(0.2)
    return read_json(path / SUMMARY_FILE)


def find_run_model(path: Path) -> Path | None:
    """The model file of a finished run directory, or None when the path is no run."""
    if not path.is_dir() or not (path / MARKER_FILE).exists():
        return None
    for name in MODEL_NAMES:
        if (path / name).exists():
            return path / name
    return None


def find_run_recipe(path: Path) -> Path | None:
    """The resolved recipe of a run directory, or of the model file in it; None when the path is no run."""
    folder = path.parent if path.name in MODEL_NAMES else path
    recipe = folder / RECIPE_FILE
    # A pipe, a device or a link to somewhere else is nothing that kd wrote.
    return recipe if (folder / MARKER_FILE).is_file() and recipe.is_file() and not recipe.is_symlink() else None


def find_run_role(path: Path) -> str:
    """Whether a run's model is a `student` or a `teacher`."""
    own = path.name in STUDENT_NAMES or any((path / name).exists() for name in STUDENT_NAMES)
    return "student" if own else "teacher"


def choose_run_folder(command: str, recipe: str) -> Path:
    """`runs/<time>_<command>_<recipe>`, not yet used."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{command}_{Path(recipe).stem or 'recipe'}"
    path, number = Path("runs") / name, 2
    while path.exists():
        path, number = Path("runs") / f"{name}_{number}", number + 1
    return path


def _contents(path: Path) -> list[str]:
    try:
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out {path} is a file, not a folder", hint="choose another --out")
        names = sorted(entry.name for entry in path.iterdir())
        return [
            n for n in names if n not in (RUN_LOCK_FILE, MARKER_FILE) and not n.startswith(writer.TEMPORARY_PREFIX)
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise writer.storage_error(path, error) from error


def _mark(path: Path, *, ended: bool) -> None:
    content = {"process": os.getpid(), "started": time.time(), "ended": ended}
    writer.write_text(path / MARKER_FILE, json.dumps(content))


def _clear(path: Path, inputs: Iterable[Path]) -> None:
    for given in inputs:
        if given.exists() and given.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"--overwrite would delete an input: {given}", hint="choose another --out")
    foreign = _foreign(path)
    for stage in (path / STAGES_FOLDER).glob("*"):
        if (stage / RUN_LOCK_FILE).exists():
            acquire_run_lock(stage).release()
        foreign += _foreign(stage) if (stage / MARKER_FILE).exists() else [stage] * (stage.name != RECIPE_FILE)
    if foreign:
        raise UsageError(
            f"--overwrite would delete what kd did not write: {foreign[0]}",
            hint="move it away, or choose another --out",
        )
    for entry in path.iterdir():
        if entry.name != RUN_LOCK_FILE:
            writer.remove(entry)


def _foreign(path: Path) -> list[Path]:
    return [path / name for name in _contents(path) if name not in RUN_NAMES]


def acquire_run_lock(path: Path, *, seconds: float = 0.0) -> FileLock:
    """The lock of a run directory, acquired within some seconds.

    Raises:
        LockedError: another process works in it.
    """
    lock = FileLock(path / RUN_LOCK_FILE)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        holder = "another process"
        marker = path / MARKER_FILE
        if marker.exists():
            holder = f"process {read_json(marker).get('process', '?')}"
        raise LockedError(
            f"{path} is in use by {holder}", hint="wait for it, or choose another --out", location=str(path)
        ) from None
    except OSError as error:
        raise writer.storage_error(path, error) from error
    return lock
