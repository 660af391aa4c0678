"""The child process that opens a `.tflite` or `.onnx` file: reading one is not memory-safe, it may end.

It is started as a script, so that TensorFlow is not imported here. It talks over its standard input and output:
one line of JSON, then the bytes of the arrays that the line announces.
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

# What can be fed and read.
NUMBER_TYPES = {"bool", "float16", "float32", "float64"} | {
    f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)
}

_MONTH = 30 * 24 * 3600


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
        EOFError: the other side has gone.
    """
    line = channel.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    arrays = []
    for dtype, shape in header.pop("arrays"):
        wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        content = channel.read(wanted)
        if len(content) != wanted:
            raise EOFError
        arrays.append(np.frombuffer(content, dtype).reshape(shape))
    return header, arrays


class RuntimeModel:
    """One opened file, asked with any number of examples.

    Args:
        file: from `kdcli.models.runtimes.runner_files`.

    Raises:
        ValueError: an input has no batch axis, or it takes several batch sizes at once.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        if any(batch is not None and batch < 1 for batch in self.file.batches):
            raise ValueError("an input has no batch axis")
        fixed = {batch for batch in self.file.batches if batch is not None}
        if len(fixed) > 1:
            raise ValueError(f"its inputs have the batch sizes {' and '.join(map(str, sorted(fixed)))}")
        self.batch: int | None = next(iter(fixed), None)

    def described(self) -> dict[str, Any]:
        """All tensors, and the fixed batch size or None."""
        return {"inputs": self.file.inputs, "outputs": self.file.outputs, "batch": self.batch}

    def run_zeros(self, output: int) -> None:
        """Answer one example of zeros, where the file says what an example is.

        What a file does when it is first asked, it does here, under the limits of opening.
        """
        if all(one["dtype"] in NUMBER_TYPES and min(one["shape"], default=1) > 0 for one in self.file.inputs):
            self.predict([np.zeros((1, *one["shape"]), one["dtype"]) for one in self.file.inputs], output)

    def predict(self, batch: Sequence[np.ndarray], output: int) -> np.ndarray:
        """One raw output for a batch of any size."""
        answers = []
        for part in self._parts(batch):
            self.file.fit(part)
            answer = np.asarray(self.file.run(part, output))
            if answer.shape[:1] != part[0].shape[:1]:
                raise ValueError(f"answers {len(part[0])} examples with the shape {answer.shape}")
            answers.append(answer)
        return np.concatenate(answers)[: len(batch[0])]

    def time(self, batch: Sequence[np.ndarray], output: int) -> int:
        """Nanoseconds from the arrays that go in to the array that comes out; allocating is done before."""
        parts, taken = self._parts(batch), 0
        for part in parts:
            self.file.fit(part)
            began = time.perf_counter_ns()
            self.file.run(part, output)
            taken += time.perf_counter_ns() - began
        return taken

    def _parts(self, batch: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """The batch in parts of the fixed size; the last one is filled up with its own last example."""
        if self.batch is None:
            return [list(batch)]
        starts = range(0, len(batch[0]), self.batch)
        parts = [[array[start : start + self.batch] for array in batch] for start in starts]
        missing = self.batch - len(parts[-1][0])
        if missing:
            parts[-1] = [np.concatenate([array, np.repeat(array[-1:], missing, 0)]) for array in parts[-1]]
        return parts


def serve_requests(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Open the file that the first message names, then answer until the other side has gone."""
    from kdcli.models.runtimes.runner_files import FILE_OF_FORMAT
    from kdcli.screening.process_limits import limit_process

    first, _ = receive(requests)
    # A large file may be asked for days: how long is up to the other side.
    limit_process(memory=max(first["memory"], _half_of_memory()), cpu_seconds=_MONTH)
    _hold(first["memory"])
    try:
        reader = RuntimeModel(FILE_OF_FORMAT[first["form"]](first["path"], first["threads"]))
        send(answers, reader.described())
    except Exception as error:
        # Whatever the runtime raises means that this file does not open; the parent says so.
        send(answers, {"error": str(error) or type(error).__name__})
        return
    while True:
        try:
            header, arrays = receive(requests)
        except EOFError:
            return
        try:
            send(answers, {}, _done(reader, header, arrays))
        except Exception as error:
            send(answers, {"error": str(error) or type(error).__name__})


def _done(reader: RuntimeModel, header: dict[str, Any], arrays: list[np.ndarray]) -> list[np.ndarray]:
    output, count = header["output"], len(reader.file.inputs)
    if header["command"] == "answer":
        return [reader.predict(arrays, output)]
    if header["command"] == "time":
        batches = [arrays[at : at + count] for at in range(0, len(arrays), count)]
        return [np.array([reader.time(batch, output) for batch in batches], np.int64)]
    reader.run_zeros(output)
    # It behaved with one example: many of them may take more.
    _hold(None)
    return []


def _hold(memory: int | None) -> None:
    """Bound the data of this process for now; None takes the bound away, as far as that goes."""
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
        # macOS refuses a bound below what is already in use.
        return


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 0


def _end_with(parent: int) -> None:
    """End when the parent has gone, also in the midst of a file that never comes back."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    # Native code writes to standard output as it likes: the channel gets a descriptor of its own.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # A script knows only its own folder, and with -P not even that.
    sys.path.append(str(Path(__file__).parents[2]))
    serve_requests(sys.stdin.buffer, channel)
