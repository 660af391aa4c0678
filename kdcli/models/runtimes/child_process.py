"""`.tflite` and `.onnx` files in their own runtimes, in a child process whose crash does not end kd."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Timer
from typing import Any

import numpy as np

from kdcli.errors import ModelError, summarize_error
from kdcli.extras import require_extra
from kdcli.models.files.format import detect_format
from kdcli.models.network import choose_output
from kdcli.models.runtimes import child_main
from kdcli.models.runtimes.child_main import NUMBER_TYPES, receive, send
from kdcli.models.runtimes.file_tensor import FileTensor

RUNTIME_OF_FORMAT = {"tflite": "litert", "onnx": "onnxruntime"}
# A `.tflite` file may also run as `micro`, but only where a caller says so.
_RUNTIMES = {**RUNTIME_OF_FORMAT, "micro": "tflite-micro"}
_EXTRAS = {"tflite": "litert", "onnx": "onnx", "micro": "micro"}
_TITLES = {"tflite": "LiteRT", "onnx": "onnxruntime", "micro": "TensorFlow Lite Micro"}
# What TensorFlow Lite Micro prints where it lacks an operation.
_MISSING_OPERATION = re.compile(r"Didn't find op for builtin opcode '(\w+)'")
# Opening may take a second longer for every 20 MB of the file.
_OPEN_TIMEOUT_SECONDS, _PREDICT_TIMEOUT_SECONDS, _OPENED_BYTES_PER_SECOND = 20.0, 300.0, 20_000_000
# Limits of the examples sent to the child at once; the activations of a batch are many times as large.
_MAX_CHUNK_EXAMPLES, _MAX_CHUNK_BYTES = 256, 8_000_000
# How long a process may take to end after a file that it did not open.
_MESSAGES_TIMEOUT_SECONDS = 5.0
# Memory of the child beyond a multiple of the file size: runtimes unpack and rearrange weights.
_RUNTIME_MEMORY_BYTES, _MEMORY_PER_FILE_BYTE, _THREAD_MEMORY_BYTES = 900_000_000, 8, 16_000_000

# One input as an array with the batch axis, or several inputs in the order of the file.
RunnerBatch = np.ndarray | Sequence[np.ndarray]


class FileRunner:
    """Runs a file in its own runtime; close it, or use it in a `with` block.

    Args:
        path: the file.
        form: `tflite` or `onnx`; detected from the content if omitted.
        threads: number of threads the runtime uses; all cores if omitted.
        output: name of the output; may be omitted if there is only one.
        name: name of the file in messages; the path if omitted.
        options: further arguments of the file's class in the child process.

    Raises:
        ModelError: the file is missing, has another format, or its runtime refuses it, crashes or hangs; or an
            optional package is missing.
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
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.name = path, name or str(path)
        self.form = form or _detect_form(path)
        require_extra(_EXTRAS[self.form], subject=f"{self.name}: a {'.' + self.form} file")
        self.runtime = _RUNTIMES[self.form]
        self._options = dict(options or {})
        self.threads = threads or os.cpu_count() or 1
        # -P keeps the current folder out of the import path.
        self._process = subprocess.Popen(
            [sys.executable, "-P", child_main.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # The others print too much for a pipe that is read only after a failure.
            stderr=subprocess.PIPE if self.form == "micro" else subprocess.DEVNULL,
        )
        # The process ends with the last reference to this object.
        self._finalizer = weakref.finalize(self, _end_process, self._process)
        self._timed_out = False
        self._lock = Lock()
        try:
            self._open(output)
        except BaseException:
            self.close()
            raise

    @property
    def input(self) -> FileTensor:
        """The first input."""
        return self.inputs[0]

    @property
    def output(self) -> FileTensor:
        """The output that `predict` returns."""
        return self.outputs[self._output]

    def __enter__(self) -> FileRunner:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process; may be called twice."""
        self._finalizer()

    def predict(self, batch: RunnerBatch) -> np.ndarray:
        """Outputs (n, ...) in float32 for examples (n, ...).

        Args:
            batch: any number of examples; floats are quantized where the file takes quantized integers, integers
                are passed as they are.

        Raises:
            ModelError: another shape, or a runtime that crashed or hung.
        """
        arrays = self._encode(batch)
        count, size = len(arrays[0]), sum(array.nbytes for array in arrays)
        chunk = min(_MAX_CHUNK_EXAMPLES, max(self.batch or 1, _MAX_CHUNK_BYTES * count // max(size, 1)))
        # With whole batches in each chunk, only the last batch is padded.
        chunk -= chunk % (self.batch or 1) if chunk > (self.batch or 1) else 0
        outputs = []
        for start in range(0, max(count, 1), chunk):
            header = {"command": "predict", "output": self._output}
            _, results = self._exchange(header, [array[start : start + chunk] for array in arrays])
            outputs.append(results[0])
        return self.output.decode(np.concatenate(outputs))

    def time_block(self, requests: Sequence[RunnerBatch]) -> np.ndarray:
        """Nanoseconds (int64) of each request, measured in the child: set inputs, run, get the output.

        Args:
            requests: inputs with the batch axis; they are quantized and sent before the clock starts. A file of a
                fixed batch size runs several times for a larger request.
        """
        sent = [array for request in requests for array in self._encode(request)]
        _, arrays = self._exchange({"command": "time", "output": self._output}, sent)
        return arrays[0]

    def _open(self, output: str | None) -> None:
        size = _read_file_size(self.path)
        seconds = _OPEN_TIMEOUT_SECONDS + size / _OPENED_BYTES_PER_SECOND
        memory = _RUNTIME_MEMORY_BYTES + _MEMORY_PER_FILE_BYTE * size + _THREAD_MEMORY_BYTES * self.threads
        request = {"path": os.fspath(self.path.absolute()), "form": self.form, "threads": self.threads}
        request["options"] = self._options
        description, _ = self._exchange({**request, "memory": memory}, (), seconds=seconds)
        self.batch: int | None = description["batch"]
        self.inputs = tuple(_read_tensor(one) for one in description["inputs"])
        self.outputs = tuple(_read_tensor(one) for one in description["outputs"])
        names = [one.name for one in self.outputs]
        self._output = names.index(choose_output(names, output, name=self.name))
        for tensor in (*self.inputs, self.output):
            if tensor.dtype not in NUMBER_TYPES:
                raise ModelError(
                    f"{self.name}: {tensor.name!r} holds {tensor.dtype}; kd feeds and reads numbers only"
                )
        self._exchange({"command": "try", "output": self._output}, (), seconds=seconds)

    def _encode(self, batch: RunnerBatch) -> list[np.ndarray]:
        arrays = [batch] if isinstance(batch, np.ndarray) else list(batch)
        if len(arrays) != len(self.inputs):
            raise ModelError(f"{self.name}: the file takes {len(self.inputs)} inputs, got {len(arrays)}")
        try:
            return [tensor.encode(array) for tensor, array in zip(self.inputs, arrays, strict=True)]
        except ModelError as error:
            raise ModelError(f"{self.name}: {error.message}") from None

    def _exchange(
        self, header: dict[str, Any], arrays: Sequence[np.ndarray], *, seconds: float = _PREDICT_TIMEOUT_SECONDS
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            # TensorFlow may call from several threads.
            with self._lock, self._limit_time(seconds):
                if process.stdin.closed:
                    raise ModelError(f"{self.name}: the {_TITLES[self.form]} process is closed")
                send(process.stdin, header, arrays)
                reply, results = receive(process.stdout)
        except (EOFError, OSError, ValueError) as error:
            reason = self._find_missing_operation() or self._describe_exit(seconds)
            raise ModelError(f"{self.name}: {reason}", hint="export the file again") from error
        if "error" in reply:
            reason = self._find_missing_operation() or summarize_error(reply["error"])
            if "Select TensorFlow op" in reason:
                reason = "it has TensorFlow operations (Flex), which this runtime does not support"
            if reason.startswith(_TITLES[self.form]):
                raise ModelError(f"{self.name}: {reason}", hint="--format litert")
            raise ModelError(f"{self.name}: {_TITLES[self.form]} cannot run the file: {reason:.300}")
        return reply, results

    def _find_missing_operation(self) -> str | None:
        """What the runtime printed about an operation that it lacks."""
        if self._process.stderr is None or self._process.stderr.closed:
            return None
        # The process ends after a file that does not open; any other failure is not about operations.
        try:
            self._process.wait(_MESSAGES_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        found = _MISSING_OPERATION.search(self._process.stderr.read().decode("utf-8", "replace"))
        return f"{_TITLES[self.form]} has no operation {found[1]}" if found else None

    @contextmanager
    def _limit_time(self, seconds: float) -> Iterator[None]:
        timer = Timer(seconds, self._stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _stop(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _describe_exit(self, seconds: float) -> str:
        code = self._process.wait()
        title = _TITLES[self.form]
        if self._timed_out:
            return f"{title} did not finish within {seconds:.0f} s"
        if code < 0:
            return f"the file crashed {title} (signal {-code}, {signal.Signals(-code).name}): it is damaged"
        return f"the {title} process failed (exit code {code})"


def _read_file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        hint = "kd export MODEL --format litert writes one"
        raise ModelError(f"{path}: no such model file", hint=hint) from None


def _detect_form(path: Path) -> str:
    _read_file_size(path)
    form = detect_format(path)
    if form not in RUNTIME_OF_FORMAT:
        raise ModelError(f"{path}: not a .tflite or .onnx file (got {form})")
    return form


def _end_process(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is None:
            continue
        try:
            pipe.close()
        except BrokenPipeError:
            # The child ended before it had read everything.
            pass
    process.wait()


def _read_tensor(document: dict[str, Any]) -> FileTensor:
    return FileTensor(**{**document, "shape": tuple(document["shape"])})
