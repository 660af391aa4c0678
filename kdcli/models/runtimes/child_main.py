"""The child process that opens a `.tflite` or `.onnx` file: their runtimes are not memory-safe and may crash.

It runs as a script, so that TensorFlow is not imported here. A message on its standard input or output is one line
of JSON, then the bytes of the arrays that the line announces.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import IO, Any

import numpy as np

# Types that kd can feed and read.
NUMBER_TYPES = {"bool", "float16", "float32", "float64"} | {
    f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)
}
_CPU_LIMIT_SECONDS = 30 * 24 * 3600


def send(channel: IO[bytes], header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Write one message."""
    announced = [[array.dtype.str, list(array.shape)] for array in arrays]
    channel.write(json.dumps({**header, "arrays": announced}).encode() + b"\n")
    for array in arrays:
        channel.write(np.ascontiguousarray(array).tobytes())
    channel.flush()


def receive(channel: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read one message.

    Raises:
        EOFError: the other side has closed the channel.
    """
    line = channel.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    arrays = []
    for dtype, shape in header.pop("arrays"):
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        content = channel.read(count)
        if len(content) != count:
            raise EOFError
        arrays.append(np.frombuffer(content, dtype).reshape(shape))
    return header, arrays


class RuntimeModel:
    """An opened file that takes batches of any size.

    Args:
        file: a file from `kdcli.models.runtimes.runner_files`.

    Raises:
        ValueError: an input without a batch axis, or inputs of different batch sizes.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        if any(batch is not None and batch < 1 for batch in self.file.batches):
            raise ValueError("an input has no batch axis")
        fixed = {batch for batch in self.file.batches if batch is not None}
        if len(fixed) > 1:
            raise ValueError(f"its inputs have different batch sizes ({', '.join(map(str, sorted(fixed)))})")
        self.batch: int | None = next(iter(fixed), None)

    def describe(self) -> dict[str, Any]:
        """All tensors, and the fixed batch size or None."""
        return {"inputs": self.file.inputs, "outputs": self.file.outputs, "batch": self.batch}

    def run_zeros(self, output: int) -> None:
        """Run one example of zeros, if its shape is known.

        The first run of a file thus happens under the limits for opening it.
        """
        if all(one["dtype"] in NUMBER_TYPES and min(one["shape"], default=1) > 0 for one in self.file.inputs):
            self.predict([np.zeros((1, *one["shape"]), one["dtype"]) for one in self.file.inputs], output)

    def predict(self, batch: Sequence[np.ndarray], output: int) -> np.ndarray:
        """One raw output for a batch of any size."""
        outputs = []
        for part in self._split(batch):
            self.file.fit(part)
            result = np.asarray(self.file.run(part, output))
            if result.shape[:1] != part[0].shape[:1]:
                raise ValueError(f"the output for {len(part[0])} examples has shape {result.shape}")
            outputs.append(result)
        return np.concatenate(outputs)[: len(batch[0])]

    def time(self, batch: Sequence[np.ndarray], output: int) -> int:
        """Nanoseconds from input arrays to the output array, without allocation."""
        parts, nanoseconds = self._split(batch), 0
        for part in parts:
            self.file.fit(part)
            began = time.perf_counter_ns()
            self.file.run(part, output)
            nanoseconds += time.perf_counter_ns() - began
        return nanoseconds

    def _split(self, batch: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """The batch in parts of the fixed size; the last part is padded with its last example."""
        if self.batch is None:
            return [list(batch)]
        starts = range(0, len(batch[0]), self.batch)
        parts = [[array[start : start + self.batch] for array in batch] for start in starts]
        missing = self.batch - len(parts[-1][0])
        if missing:
            parts[-1] = [np.concatenate([array, np.repeat(array[-1:], missing, 0)]) for array in parts[-1]]
        return parts


def serve_requests(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Open the file named in the first message, then reply to messages until the channel is closed."""
    from kdcli.models.runtimes.runner_files import FILE_OF_FORMAT
    from kdcli.screening.process_limits import limit_process

    first, _ = receive(requests)
    # A large file may run for days; the other side sets the timeouts.
    limit_process(memory=max(first["memory"], _half_of_memory()), cpu_seconds=_CPU_LIMIT_SECONDS)
    _limit_memory(first["memory"])
    try:
        model = RuntimeModel(FILE_OF_FORMAT[first["form"]](first["path"], first["threads"], **first["options"]))
        send(replies, model.describe())
    except Exception as error:
        # Anything that the runtime raises means that this file does not open; the parent reports it.
        send(replies, {"error": str(error) or type(error).__name__})
        return
    while True:
        try:
            header, arrays = receive(requests)
        except EOFError:
            return
        try:
            send(replies, {}, _run_command(model, header, arrays))
        except Exception as error:
            send(replies, {"error": str(error) or type(error).__name__})


def _run_command(model: RuntimeModel, header: dict[str, Any], arrays: list[np.ndarray]) -> list[np.ndarray]:
    output, count = header["output"], len(model.file.inputs)
    if header["command"] == "predict":
        return [model.predict(arrays, output)]
    if header["command"] == "time":
        batches = [arrays[at : at + count] for at in range(0, len(arrays), count)]
        return [np.array([model.time(batch, output) for batch in batches], np.int64)]
    model.run_zeros(output)
    # One example worked; large batches may need more memory.
    _limit_memory(None)
    return []


def _limit_memory(memory: int | None) -> None:
    """Limit the data segment of this process; None removes the limit as far as possible."""
    try:
        import resource
    except ImportError:
        # Windows has no such limits.
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if memory is None or (hard != resource.RLIM_INFINITY and memory > hard):
        memory = hard
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    except (ValueError, OSError):
        # macOS refuses a limit below the memory already in use.
        return


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 0


def _watch_parent(parent: int) -> None:
    """End this process when its parent has ended, even while a file runs."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    # Native code may write to standard output, so the channel gets a descriptor of its own.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # A script's import path holds only its own folder, and with -P not even that.
    sys.path.append(str(Path(__file__).parents[3]))
    serve_requests(sys.stdin.buffer, channel)
