"""A run on disk. Only this file knows the file names in a run directory."""

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
# A student or teacher that was opened from a SavedModel is saved as one.
STUDENT_FOLDER, TEACHER_FOLDER = "student_saved_model", "teacher_saved_model"
STUDENT_NAMES = (STUDENT_FILE, STUDENT_FOLDER)
MODEL_NAMES = (*STUDENT_NAMES, TEACHER_FILE, TEACHER_FOLDER)
SUMMARY_FILE, RECIPE_FILE, ENVIRONMENT_FILE = "summary.json", "recipe.yaml", "environment.json"
METRICS_FILE, PREDICTIONS_FILE, README_FILE = "metrics.jsonl", "predictions.npz", "README.md"
# The ranges of a student from quantization-aware training, and its 8-bit file.
RANGES_FILE, QUANTIZED_FILE, QUANTIZATION_FILE = "ranges.json", "student.tflite", "quantization.json"
CHECKPOINT_FOLDER = "checkpoint"
# The earlier stages of a chain, each of them a run, and the recipe that lists all stages.
STAGES_FOLDER = "stages"
_FILES = (SUMMARY_FILE, RECIPE_FILE, ENVIRONMENT_FILE, METRICS_FILE, PREDICTIONS_FILE, README_FILE)
_QUANTIZED = (RANGES_FILE, QUANTIZED_FILE, QUANTIZATION_FILE, "input.json", "labels.txt")
RUN_NAMES = (*MODEL_NAMES, *_FILES, *_QUANTIZED, CHECKPOINT_FOLDER, STAGES_FOLDER)


class Run:
    """A run directory, open for writing by this process only, or without a lock for reading.

    Args:
        path: the directory.
        crashed: whether the last process that worked in it did not close it.
        lock: the acquired lock, or None.
    """

    def __init__(self, path: Path, *, crashed: bool, lock: FileLock | None) -> None:
        self.path = path
        self.crashed = crashed
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
    ranges = property(lambda self: self.path / RANGES_FILE)

    def path_of_model(self, role: str, *, folder: bool) -> Path:
        """Return the path of the model with a role: a `.keras` file, or with `folder` a SavedModel."""
        names = {"student": (STUDENT_FILE, STUDENT_FOLDER), "teacher": (TEACHER_FILE, TEACHER_FOLDER)}
        return self.path / names[role][folder]

    @classmethod
    def open(cls, path: Path, *, resume: bool, overwrite: bool, inputs: Iterable[Path] = ()) -> Run:
        """Open a directory for a new run, or with `resume` for an unfinished one.

        Args:
            path: the directory.
            resume: continue an unfinished run.
            overwrite: delete the run in the directory.
            inputs: files that must not be deleted.

        Raises:
            UsageError: the directory is not empty, and neither `resume` nor `overwrite` applies.
            StorageError: the directory cannot be written, or another process is using it.
        """
        contents = check_run_folder(path, resume=resume, overwrite=overwrite)
        created = not path.exists()
        writer.make_folder(path)
        lock = None
        try:
            lock = acquire_run_lock(path)
            for leftover in path.rglob(f"{writer.TEMPORARY_PREFIX}*"):
                writer.remove(leftover)
            if contents and overwrite and not resume:
                _clear(path, inputs)
                contents = []
            crashed = bool(contents) and not read_json(path / MARKER_FILE).get("ended", False)
            _write_marker(path, ended=False)
        except BaseException:
            if lock is not None:
                lock.release()
                (path / RUN_LOCK_FILE).unlink(missing_ok=True)
            if created:
                shutil.rmtree(path, ignore_errors=True)
            raise
        return cls(path, crashed=crashed, lock=lock)

    @classmethod
    def followed(cls, path: Path) -> Run:
        """Open the directory for a worker that only follows: the chief of the workers writes in it."""
        return cls(path, crashed=False, lock=None)

    def close(self) -> None:
        """Release the directory and record that this process closed it."""
        if self._lock is None:
            return
        try:
            _write_marker(self.path, ended=True)
        finally:
            # Before the release: afterwards the file may be the lock of another process.
            (self.path / RUN_LOCK_FILE).unlink(missing_ok=True)
            self._lock.release()


def check_run_folder(path: Path, *, resume: bool, overwrite: bool) -> list[str]:
    """Check that a run may be written to a directory, without writing anything.

    Returns:
        The names in the directory.

    Raises:
        UsageError: the directory is not empty, and neither `resume` nor `overwrite` applies.
        LockedError: another process is using it.
    """
    contents = list_contents(path)
    if contents and not resume and not overwrite:
        raise UsageError(
            f"--out {path} is not empty ({contents[0]}{', ...' if len(contents) > 1 else ''})",
            hint="another --out, --resume to continue the run in it, or --overwrite to delete it",
        )
    if contents and not (path / MARKER_FILE).exists():
        raise UsageError(
            f"--out {path} contains files that kd did not write ({contents[0]})",
            hint="choose another --out; kd deletes and continues only what it wrote",
        )
    if (path / RUN_LOCK_FILE).exists():
        # Several workers may check at the same time; each holds the lock for a moment.
        acquire_run_lock(path, timeout_seconds=0.5).release()
    return contents


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document of a run.

    Raises:
        StorageError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise writer.storage_error(path, error) from error
    except ValueError as error:
        raise StorageError(f"{path}: not valid JSON: {error}", hint="start over with --overwrite") from None


def wait_for_summary(path: Path, *, timeout_seconds: float = 60.0) -> dict[str, Any]:
    """Read the summary that another machine has just written; a shared file system may show it late.

    Raises:
        StorageError: the summary does not appear in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (path / SUMMARY_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    return read_json(path / SUMMARY_FILE)


def find_run_model(path: Path) -> Path | None:
    """Find the model in a run directory; None if the path is not a run with a model."""
    if not path.is_dir() or not (path / MARKER_FILE).exists():
        return None
    for name in MODEL_NAMES:
        if (path / name).exists():
            return path / name
    return None


def find_run_recipe(path: Path) -> Path | None:
    """Find the resolved recipe of a run directory or of a model in it; None if the path is not in a run."""
    folder = path.parent if path.name in MODEL_NAMES else path
    recipe = folder / RECIPE_FILE
    # kd never writes a pipe, a device or a link.
    return recipe if (folder / MARKER_FILE).is_file() and recipe.is_file() and not recipe.is_symlink() else None


def find_run_role(path: Path) -> str:
    """Find whether the model of a run is a `student` or a `teacher`."""
    is_student = path.name in STUDENT_NAMES or any((path / name).exists() for name in STUDENT_NAMES)
    return "student" if is_student else "teacher"


def choose_run_folder(command: str, recipe: str) -> Path:
    """Choose a folder that does not exist yet: `runs/<time>_<command>_<recipe>`."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{command}_{Path(recipe).stem or 'recipe'}"
    path, number = Path("runs") / name, 2
    while path.exists():
        path, number = Path("runs") / f"{name}_{number}", number + 1
    return path


def list_contents(path: Path) -> list[str]:
    """List the names in a directory, without lock, marker and temporary files; empty if there is no directory.

    Raises:
        UsageError: the path is a file.
        StorageError: the directory cannot be read.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out {path} is a file, not a folder", hint="choose another --out")
        names = sorted(entry.name for entry in path.iterdir())
        hidden = (RUN_LOCK_FILE, MARKER_FILE)
        return [name for name in names if name not in hidden and not name.startswith(writer.TEMPORARY_PREFIX)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise writer.storage_error(path, error) from error


def _write_marker(path: Path, *, ended: bool) -> None:
    content = {"process": os.getpid(), "started": time.time(), "ended": ended}
    writer.write_text(path / MARKER_FILE, json.dumps(content))


def check_no_input_in(path: Path, inputs: Iterable[Path]) -> None:
    """Check that a directory, which is about to be deleted, contains none of the inputs.

    Raises:
        UsageError: it contains one.
    """
    for file in inputs:
        if file.exists() and file.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"--overwrite would delete an input: {file}", hint="choose another --out")


def make_foreign_file_error(path: Path) -> UsageError:
    """Make the error for a file in the way of `--overwrite` that kd did not write."""
    return UsageError(
        f"--overwrite would delete {path}, which kd did not write", hint="move it away, or choose another --out"
    )


def _clear(path: Path, inputs: Iterable[Path]) -> None:
    check_no_input_in(path, inputs)
    foreign = _list_foreign_files(path)
    for stage in (path / STAGES_FOLDER).glob("*"):
        if (stage / RUN_LOCK_FILE).exists():
            acquire_run_lock(stage).release()
        if (stage / MARKER_FILE).exists():
            foreign += _list_foreign_files(stage)
        elif stage.name != RECIPE_FILE:
            foreign.append(stage)
    if foreign:
        raise make_foreign_file_error(foreign[0])
    for entry in path.iterdir():
        if entry.name != RUN_LOCK_FILE:
            writer.remove(entry)


def _list_foreign_files(path: Path) -> list[Path]:
    return [path / name for name in list_contents(path) if name not in RUN_NAMES]


def acquire_run_lock(path: Path, *, timeout_seconds: float = 0.0) -> FileLock:
    """Acquire the lock of a run directory.

    Raises:
        LockedError: another process holds it.
    """
    lock = FileLock(path / RUN_LOCK_FILE)
    try:
        lock.acquire(timeout=timeout_seconds)
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
