"""A `.tflite` file in its own runtime, opened in a child process that may die without taking kd along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np

from kdcli.errors import ModelError
from kdcli.models import litert_process
from kdcli.models.extras import require_extra
from kdcli.models.litert_process import receive, send

# Bytes 4 to 8 of every such file.
IDENTIFIER = b"TFL3"
OPENING_SECONDS, ANSWERING_SECONDS = 60.0, 300.0
# Examples that travel to the child at once.
CHUNK = 256
_WANTED = "kd opens a .tflite file with one input and one output, as kd export writes it"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a file.

    Args:
        name: in the file.
        shape: without the batch axis; -1 where any size is taken.
        dtype: `float32`, `uint8`, `int8`, ...
        scale: a stored integer q means `scale * (q - zero_point)`; None where it is what it is.
        zero_point: 0 without a scale.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int

    @property
    def integer(self) -> bool:
        """Whether it holds integers."""
        return np.dtype(self.dtype).kind in "iu"

    def stored(self, batch: np.ndarray) -> np.ndarray:
        """A batch as the tensor holds it: floats quantised where it holds integers, integers as they are.

        Raises:
            ModelError: integers that it cannot hold, or another shape.
        """
        if batch.ndim != len(self.shape) + 1 or any(
            wanted not in (-1, given) for wanted, given in zip(self.shape, batch.shape[1:], strict=True)
        ):
            raise ModelError(f"the file takes examples of shape {self.shape}, got {tuple(batch.shape[1:])}")
        if not self.integer:
            return np.ascontiguousarray(batch, self.dtype)
        limits = np.iinfo(self.dtype)
        if batch.dtype.kind == "f":
            batch = np.round(batch.astype(np.float64) / (self.scale or 1.0)) + self.zero_point
            batch = np.clip(batch, limits.min, limits.max)
        elif batch.dtype != self.dtype and batch.size:
            if batch.min() < limits.min or batch.max() > limits.max:
                raise ModelError(f"the file takes {self.dtype}, got values from {batch.min()} to {batch.max()}")
        return np.ascontiguousarray(batch, self.dtype)

    def meant(self, stored: np.ndarray) -> np.ndarray:
        """Float32 values from what the tensor holds."""
        if not self.integer or self.scale is None:
            return stored.astype(np.float32)
        return ((stored.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)


class LiteRT:
    """Runs a `.tflite` file with LiteRT; close it, or use it in a `with`.

    Args:
        path: the file.
        threads: for its operations; every core when left out.

    Raises:
        ModelError: no such file, not such a file, one that its runtime refuses, one that ends or hangs its
            reader, several inputs or outputs; or the package `ai-edge-litert` is missing.
    """

    runtime = "litert"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        require_extra("litert", what=f"{path}: a .tflite file")
        _check_file(path)
        self.path = path
        self.threads = threads or os.cpu_count() or 1
        # As a script, and without the current folder among the places to import from.
        self._process = subprocess.Popen(
            [sys.executable, "-P", litert_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._timed_out = False
        try:
            request = {"path": os.fspath(path.absolute()), "threads": self.threads}
            described, _ = self._exchange(request, (), seconds=OPENING_SECONDS)
        except BaseException:
            self.close()
            raise
        self.input, self.output = _info(described["input"]), _info(described["output"])
        self.batch: int | None = described["batch"]

    def __enter__(self) -> LiteRT:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process; closing twice is no error."""
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                # What the child had not read any more.
                pass
        self._process.wait()

    def answer(self, batch: np.ndarray) -> np.ndarray:
        """Answers (n, ...) in float32 to examples (n, ...).

        Args:
            batch: floats are quantised where the file takes integers; integers pass as they are. Any number of
                examples: a file for one batch size is asked as often as it takes.

        Raises:
            ModelError: another shape, or a child that died or hung.
        """
        stored = self._stored(batch)
        parts = []
        for start in range(0, max(len(stored), 1), CHUNK):
            _, arrays = self._exchange({"command": "answer"}, [stored[start : start + CHUNK]])
            parts.append(arrays[0])
        return self.output.meant(np.concatenate(parts))

    def time_block(self, requests: list[np.ndarray]) -> np.ndarray:
        """Nanoseconds (int64) of each request, taken inside the child: set, invoke, get.

        Args:
            requests: arrays with the batch axis; quantised and sent before the clock starts. A file for one
                batch size is asked several times within a larger request.
        """
        _, arrays = self._exchange({"command": "time"}, [self._stored(request) for request in requests])
        return arrays[0]

    def _stored(self, batch: np.ndarray) -> np.ndarray:
        try:
            return self.input.stored(batch)
        except ModelError as error:
            raise ModelError(f"{self.path}: {error.message}") from None

    def _exchange(
        self, header: dict[str, Any], arrays: Sequence[np.ndarray], *, seconds: float = ANSWERING_SECONDS
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        if process.stdin.closed:
            raise ModelError(f"{self.path}: its reader is closed")
        try:
            with self._limited(seconds):
                send(process.stdin, header, arrays)
                answer, found = receive(process.stdout)
        except (EOFError, OSError, ValueError) as error:
            raise ModelError(f"{self.path}: {self._ending(seconds)}", hint="make the file anew") from error
        if "error" in answer:
            reason = (answer["error"].strip().splitlines() or ["no reason given"])[0]
            raise ModelError(f"{self.path}: LiteRT does not run the file: {reason:.300}", hint=_WANTED)
        return answer, found

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        timer = Timer(seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _ending(self, seconds: float) -> str:
        code = self._process.wait()
        if self._timed_out:
            return f"LiteRT hung on the file and was ended after {seconds:.0f} s"
        if code < 0:
            return f"the file ended its reader (signal {-code}, {signal.Signals(-code).name}): it is damaged"
        return f"its reader ended (exit code {code})"


def _check_file(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such model file", hint="kd export MODEL --format litert makes one") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if head[4:8] != IDENTIFIER:
        raise ModelError(f"{path}: not a .tflite file (its identifier {IDENTIFIER.decode()} is missing)")


def _info(described: dict[str, Any]) -> TensorInfo:
    return TensorInfo(**{**described, "shape": tuple(described["shape"])})


__all__ = ["LiteRT", "TensorInfo"]
