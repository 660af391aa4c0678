"""A `.tflite` or `.onnx` file in its own runtime, in a child process that may die without taking kd along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Timer
from typing import Any

import numpy as np

from kdcli.errors import ModelError, summarize_error
from kdcli.extras import require_extra
from kdcli.models.files.format import detect_format
from kdcli.models.network import choose_output
from kdcli.models.runtimes import runner_process
from kdcli.models.runtimes.runner_process import NUMBER_TYPES, receive, send
from kdcli.models.runtimes.tensor_info import FileTensor

RUNTIME_OF_FORMAT = {"tflite": "litert", "onnx": "onnxruntime"}
_EXTRAS = {"tflite": "litert", "onnx": "onnx"}
_CALLED = {"tflite": "LiteRT", "onnx": "onnxruntime"}
# A second more for every 20 MB.
_OPEN_TIMEOUT_SECONDS, _PREDICT_TIMEOUT_SECONDS, _OPENED_BYTES_PER_SECOND = 20.0, 300.0, 20_000_000
# Examples that travel to the child at once: as many as fit into the bytes, 256 at most. What lies between the
# layers is many times as large.
_MAX_CHUNK_EXAMPLES, _MAX_CHUNK_BYTES = 256, 8_000_000
# What the child may take beside a multiple of the file: runtimes unpack and rearrange weights.
_RUNTIME_MEMORY_BYTES, _MEMORY_PER_FILE_BYTE, _THREAD_MEMORY_BYTES = 900_000_000, 8, 16_000_000

# One input as an array with the batch axis, several as a sequence of them in the file's order.
RunnerBatch = np.ndarray | Sequence[np.ndarray]


class FileRunner:
    """Runs a file in its own runtime; close it, or use it in a `with`.

    Args:
        path: the file.
        form: `tflite` or `onnx`; by content when left out.
        threads: for its operations; every core when left out.
        output: which of several outputs is answered.
        name: what messages call it; the path when left out.

    Raises:
        ModelError: no such file, not such a file, one that its runtime refuses, or one that ends or hangs its
            reader; or an optional package is missing.
        UsageError: no such output, or several and none chosen.
    """

    def __init__(
        self,
        path: Path,
        *,
        form: str | None = None,
        threads: int | None = None,
        output: str | None = None,
        name: str | None = None,
    ) -> None:
        self.path, self.name = path, name or str(path)
        self.form = form or _form_of(path)
        require_extra(_EXTRAS[self.form], subject=f"{self.name}: a {'.' + self.form} file")
        self.runtime = RUNTIME_OF_FORMAT[self.form]
        self.threads = threads or os.cpu_count() or 1
        # As a script, and without the current folder among the places to import from.
        self._process = subprocess.Popen(
            [sys.executable, "-P", runner_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # A network that is forgotten takes its reader along.
        self._end = weakref.finalize(self, _end, self._process)
        self._timed_out = False
        self._turn = Lock()
        try:
            size = _size(path)
            seconds = _OPEN_TIMEOUT_SECONDS + size / _OPENED_BYTES_PER_SECOND
            memory = _RUNTIME_MEMORY_BYTES + _MEMORY_PER_FILE_BYTE * size + _THREAD_MEMORY_BYTES * self.threads
            opening = {"path": os.fspath(path.absolute()), "form": self.form, "threads": self.threads}
            described, _ = self._exchange({**opening, "memory": memory}, (), seconds=seconds)
            self.batch: int | None = described["batch"]
            self.inputs = tuple(_info(one) for one in described["inputs"])
            self.outputs = tuple(_info(one) for one in described["outputs"])
            names = [one.name for one in self.outputs]
            self._chosen = names.index(choose_output(names, output, name=self.name))
            self._check_types()
            self._exchange({"command": "try", "output": self._chosen}, (), seconds=seconds)
        except BaseException:
            self.close()
            raise

    @property
    def input(self) -> FileTensor:
        """The first input."""
        return self.inputs[0]

    @property
    def output(self) -> FileTensor:
        """The output that is answered."""
        return self.outputs[self._chosen]

    def __enter__(self) -> FileRunner:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process; closing twice is no error."""
        self._end()

    def predict(self, batch: RunnerBatch) -> np.ndarray:
        """Answers (n, ...) in float32 to examples (n, ...).

        Args:
            batch: floats are quantised where the file takes integers with a scale; other integers pass as they
                are. Any number of examples: a file for one batch size is asked as often as it takes.

        Raises:
            ModelError: another shape, or a child that died or hung.
        """
        stored = self._stored(batch)
        count, size = len(stored[0]), sum(array.nbytes for array in stored)
        chunk = min(_MAX_CHUNK_EXAMPLES, max(self.batch or 1, _MAX_CHUNK_BYTES * count // max(size, 1)))
        # A file for one batch size is not made to fill up more than its last batch.
        chunk -= chunk % (self.batch or 1) if chunk > (self.batch or 1) else 0
        parts = []
        for start in range(0, max(count, 1), chunk):
            header = {"command": "answer", "output": self._chosen}
            _, arrays = self._exchange(header, [array[start : start + chunk] for array in stored])
            parts.append(arrays[0])
        return self.output.decode(np.concatenate(parts))

    def time_block(self, requests: Sequence[RunnerBatch]) -> np.ndarray:
        """Nanoseconds (int64) of each request, taken inside the child: set, run, get.

        Args:
            requests: each with the batch axis; quantised and sent before the clock starts. A file for one batch
                size is asked several times within a larger request.
        """
        sent = [array for request in requests for array in self._stored(request)]
        _, arrays = self._exchange({"command": "time", "output": self._chosen}, sent)
        return arrays[0]

    def _check_types(self) -> None:
        for tensor in (*self.inputs, self.output):
            if tensor.dtype not in NUMBER_TYPES:
                raise ModelError(f"{self.name}: {tensor.name!r} holds {tensor.dtype}; kd feeds and reads numbers")

    def _stored(self, batch: RunnerBatch) -> list[np.ndarray]:
        arrays = [batch] if isinstance(batch, np.ndarray) else list(batch)
        if len(arrays) != len(self.inputs):
            raise ModelError(f"{self.name}: the file takes {len(self.inputs)} inputs, got {len(arrays)}")
        try:
            return [tensor.stored(array) for tensor, array in zip(self.inputs, arrays, strict=True)]
        except ModelError as error:
            raise ModelError(f"{self.name}: {error.message}") from None

    def _exchange(
        self, header: dict[str, Any], arrays: Sequence[np.ndarray], *, seconds: float = _PREDICT_TIMEOUT_SECONDS
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            # TensorFlow may ask from several threads.
            with self._turn, self._limited(seconds):
                if process.stdin.closed:
                    raise ModelError(f"{self.name}: its reader is closed")
                send(process.stdin, header, arrays)
                answer, found = receive(process.stdout)
        except (EOFError, OSError, ValueError) as error:
            raise ModelError(f"{self.name}: {self._ending(seconds)}", hint="make the file anew") from error
        if "error" in answer:
            reason = summarize_error(answer["error"])
            if "Select TensorFlow op" in reason:
                reason = "it has operations of TensorFlow (Flex), which this runtime does not have"
            raise ModelError(f"{self.name}: {_CALLED[self.form]} does not run the file: {reason:.300}")
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
            return f"{_CALLED[self.form]} hung on the file and was ended after {seconds:.0f} s"
        if code < 0:
            return f"the file ended its reader (signal {-code}, {signal.Signals(-code).name}): it is damaged"
        return f"its reader ended (exit code {code})"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise ModelError(f"{path}: no such model file", hint="kd export MODEL --format litert makes one") from None


def _form_of(path: Path) -> str:
    _size(path)
    form = detect_format(path)
    if form not in RUNTIME_OF_FORMAT:
        raise ModelError(f"{path}: a {form} file; a .tflite or .onnx file is needed")
    return form


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        try:
            pipe.close()
        except BrokenPipeError:
            # What the child had not read any more.
            pass
    process.wait()


def _info(described: dict[str, Any]) -> FileTensor:
    return FileTensor(**{**described, "shape": tuple(described["shape"])})
