"""Checkpoints: everything that the rest of a run follows from, checked when it is read again.

A file is a header (JSON), raw arrays and a sha256 over both. It appears whole or not at all; the newest
valid one wins, and a damaged one is never used.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import StorageError
from kdcli.runs import writing

_MAGIC = b"KDCKPT1\n"
_SUFFIX = ".checkpoint"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: a JSON document and named arrays."""

    document: dict[str, Any]
    arrays: dict[str, np.ndarray]


def pack(saved: Saved) -> bytes:
    """The bytes of a checkpoint file."""
    arrays = {name: np.ascontiguousarray(array) for name, array in saved.arrays.items()}
    layout = [[name, str(array.dtype), list(saved.arrays[name].shape)] for name, array in arrays.items()]
    header = json.dumps({"document": saved.document, "arrays": layout}).encode("utf-8")
    parts = [_MAGIC, struct.pack("<Q", len(header)), header, *(array.tobytes() for array in arrays.values())]
    content = b"".join(parts)
    return content + hashlib.sha256(content).digest()


def unpack(content: bytes, path: Path) -> Saved:
    """A checkpoint from its bytes.

    Raises:
        StorageError: anything about it is not as it was written.
    """
    body, digest = content[:-32], content[-32:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        raise StorageError(f"{path}: the checkpoint is damaged", location=str(path))
    (length,) = struct.unpack_from("<Q", body, len(_MAGIC))
    start = len(_MAGIC) + 8
    header = json.loads(body[start : start + length])
    at = start + length
    arrays = {}
    for name, dtype, shape in header["arrays"]:
        array = np.frombuffer(body, np.dtype(dtype), int(np.prod(shape)), at).reshape(shape)
        arrays[name] = array
        at += array.nbytes
    return Saved(header["document"], arrays)


def parse_period(text: str) -> tuple[str, float]:
    """`2m` → ("seconds", 120), `500 steps` → ("steps", 500), `1 epochs` → ("epochs", 1)."""
    match = re.fullmatch(r"(\d+)\s*(s|m|h|steps?|epochs?)", text)
    assert match, text
    count, unit = int(match[1]), match[2]
    if unit in ("s", "m", "h"):
        return "seconds", count * {"s": 1, "m": 60, "h": 3600}[unit]
    return unit.rstrip("s") + "s", count


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made at the first save.
        every: `2m`, `500 steps`, `1 epochs`.
        keep: how many are kept.
        clock: seconds, for the time since the last one.
    """

    def __init__(
        self, folder: Path, *, every: str, keep: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self.keep = keep
        self._unit, self._count = parse_period(every)
        self._clock = clock
        self._since = clock()
        self._step = 0

    def steps_until_due(self, step: int, epoch_steps: int) -> int | None:
        """Steps until the next save when it is due by steps or epochs; None when it is due by time."""
        if self._unit == "seconds":
            return None
        period = int(self._count if self._unit == "steps" else self._count * epoch_steps)
        return period - step % period

    def due(self, step: int, epoch_steps: int) -> bool:
        """Whether a save is due after this step."""
        if step == self._step:
            return False
        if self._unit == "seconds":
            return self._clock() - self._since >= self._count
        return step % int(self._count if self._unit == "steps" else self._count * epoch_steps) == 0

    def save(self, step: int, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
        """Write the checkpoint of a step, then drop the oldest ones."""
        writing.make_folder(self.folder)
        path = self.folder / f"step-{step:09d}{_SUFFIX}"
        writing.write_bytes(path, pack(Saved(dict(document), dict(arrays))))
        for old in self.paths()[: -self.keep]:
            writing.remove(old)
        self._since, self._step = self._clock(), step
        return path

    def paths(self) -> list[Path]:
        """The checkpoint files, oldest first."""
        return sorted(self.folder.glob(f"step-*{_SUFFIX}")) if self.folder.is_dir() else []

    def newest(self) -> tuple[Saved | None, list[str]]:
        """The newest valid checkpoint, and what was wrong with newer ones.

        Raises:
            StorageError: there are checkpoints and none of them is valid.
        """
        wrong: list[str] = []
        for path in reversed(self.paths()):
            try:
                saved = unpack(path.read_bytes(), path)
            except StorageError as error:
                wrong.append(error.message)
            except OSError as error:
                wrong.append(writing.storage_error(path, error).message)
            else:
                self._step = int(saved.document["step"])
                return saved, wrong
        if wrong:
            raise StorageError(
                f"{self.folder}: no valid checkpoint ({'; '.join(wrong)})", hint="start anew with --overwrite"
            )
        return None, wrong
