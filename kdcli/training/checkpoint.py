"""Checkpoints: the complete state of a run, verified when it is read.

A file is written whole or not at all. The newest valid file is used; a damaged one never is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import StorageError
from kdcli.runs import writer
from kdcli.runs.packed_file import PackedData, pack, unpack

_SUFFIX = ".checkpoint"


def parse_period(text: str) -> tuple[str, float]:
    """Parse `2m` to ("seconds", 120), `500 steps` to ("steps", 500), `1 epochs` to ("epochs", 1)."""
    match = re.fullmatch(r"(\d+)\s*(s|m|h|steps?|epochs?)", text)
    assert match, text
    count, unit = int(match[1]), match[2]
    if unit in ("s", "m", "h"):
        return "seconds", count * {"s": 1, "m": 60, "h": 3600}[unit]
    return unit.rstrip("s") + "s", count


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoint files in a folder, oldest first."""
    return sorted(folder.glob(f"step-*{_SUFFIX}")) if folder.is_dir() else []


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: their folder; created by the first save.
        every: period between saves: `2m`, `500 steps`, `1 epochs`.
        keep: number of checkpoints to keep.
        clock: clock in seconds, for the time since the last save.
    """

    def __init__(
        self, folder: Path, *, every: str, keep: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self.keep = keep
        self._unit, self._count = parse_period(every)
        self._clock = clock
        self._saved_at = clock()
        self._step = 0

    def steps_until_due(self, step: int, epoch_steps: int) -> int | None:
        """Steps until the next save if the period is in steps or epochs; None if it is in seconds."""
        if self._unit == "seconds":
            return None
        period = int(self._count if self._unit == "steps" else self._count * epoch_steps)
        return period - step % period

    def is_due(self, step: int, epoch_steps: int) -> bool:
        """Whether a save is due after this step."""
        if step == self._step:
            return False
        if self._unit == "seconds":
            return self._clock() - self._saved_at >= self._count
        return step % int(self._count if self._unit == "steps" else self._count * epoch_steps) == 0

    def save(self, step: int, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
        """Write the checkpoint of a step, then delete the oldest ones."""
        writer.make_folder(self.folder)
        path = self.path_of(step)
        writer.write_bytes(path, pack(PackedData(dict(document), dict(arrays))))
        for old in self.paths()[: -self.keep]:
            writer.remove(old)
        self._saved_at, self._step = self._clock(), step
        return path

    def path_of(self, step: int) -> Path:
        """The path of the checkpoint of a step."""
        return self.folder / f"step-{step:09d}{_SUFFIX}"

    def paths(self) -> list[Path]:
        """List the checkpoint files, oldest first."""
        return list_checkpoints(self.folder)

    def read_chief(self, step: int) -> PackedData:
        """Read the checkpoint from which the chief of several workers continues.

        Raises:
            StorageError: the file is missing or damaged.
        """
        path = self.path_of(step)
        try:
            return unpack(path.read_bytes(), path)
        except FileNotFoundError:
            raise StorageError(
                f"{path}: the chief continues from this checkpoint, but this worker cannot find it",
                hint="--out on a file system that all workers share",
                location=str(path),
            ) from None
        except OSError as error:
            raise writer.storage_error(path, error) from error

    def read_newest(self) -> tuple[PackedData | None, list[str]]:
        """Read the newest valid checkpoint; also return the errors of newer ones.

        Raises:
            StorageError: there are checkpoints, but none is valid.
        """
        errors: list[str] = []
        for path in reversed(self.paths()):
            try:
                saved = unpack(path.read_bytes(), path)
            except StorageError as error:
                errors.append(error.message)
            except OSError as error:
                errors.append(writer.storage_error(path, error).message)
            else:
                self._step = int(saved.document["step"])
                return saved, errors
        if errors:
            raise StorageError(
                f"{self.folder}: no valid checkpoint ({'; '.join(errors)})", hint="start again with --overwrite"
            )
        return None, errors
