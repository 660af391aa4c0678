"""The child process that opens a `.tflite` file: reading one is not memory-safe, and may end the process.

It is started as a script, so that neither kdcli nor TensorFlow is imported here. It talks over its standard
input and output: one line of JSON, then the bytes of the arrays that the line announces.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

import numpy as np


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


class Reader:
    """One opened file.

    Args:
        path: the `.tflite` file.
        threads: for its operations.

    Raises:
        ValueError: the interpreter refuses the file, or there is not one input and one output.
    """

    def __init__(self, path: str, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with open(path, "rb") as file:
            content = file.read()
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        for noun, found in (("input", inputs), ("output", outputs)):
            if len(found) != 1:
                raise ValueError(f"the file has {len(found)} {noun}s; one is needed")
        self._input, self._output = inputs[0], outputs[0]
        # A batch size that is written into the graph is kept: what is resized nevertheless may answer wrongly.
        self._batch = int(self._input["shape"][0]) if len(self._input["shape"]) else 0
        self._resizable = len(self._input["shape_signature"]) > 0 and self._input["shape_signature"][0] == -1
        if self._batch < 1:
            raise ValueError("the input has no batch axis")

    def described(self) -> dict[str, Any]:
        """Both tensors, and the fixed batch size or None."""
        return {
            "input": _described(self._input),
            "output": _described(self._output),
            "batch": None if self._resizable else self._batch,
        }

    def answer(self, batch: np.ndarray) -> np.ndarray:
        """The raw output for a batch of any size."""
        if self._resizable:
            return self._invoke(self._resized(batch))
        parts = [self._invoke(part) for part in self._parts(batch)]
        return np.concatenate(parts)[: len(batch)]

    def time(self, batch: np.ndarray) -> int:
        """Nanoseconds from the array that goes in to the array that comes out; allocating is done before."""
        parts = [self._resized(batch)] if self._resizable else self._parts(batch)
        began = time.perf_counter_ns()
        for part in parts:
            self._invoke(part)
        return time.perf_counter_ns() - began

    def _invoke(self, batch: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._input["index"], batch)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])

    def _resized(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) != self._batch:
            self._interpreter.resize_tensor_input(self._input["index"], batch.shape)
            self._interpreter.allocate_tensors()
            self._batch = len(batch)
        return batch

    def _parts(self, batch: np.ndarray) -> list[np.ndarray]:
        """The batch in parts of the fixed size; the last one is filled up with its own last example."""
        parts = [batch[start : start + self._batch] for start in range(0, len(batch), self._batch)]
        missing = self._batch - len(parts[-1])
        if missing:
            parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], missing, 0)])
        return parts


def _described(tensor: dict[str, Any]) -> dict[str, Any]:
    shape = tensor["shape_signature"] if len(tensor["shape_signature"]) else tensor["shape"]
    parameters = tensor["quantization_parameters"]
    quantised = len(parameters["scales"]) == 1
    return {
        "name": tensor["name"],
        "shape": [int(side) for side in shape[1:]],
        "dtype": np.dtype(tensor["dtype"]).name,
        "scale": float(parameters["scales"][0]) if quantised else None,
        "zero_point": int(parameters["zero_points"][0]) if quantised else 0,
    }


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Open the file that the first message names, then answer until the other side has gone."""
    first, _ = receive(requests)
    try:
        reader = Reader(first["path"], first["threads"])
        send(answers, reader.described())
    except Exception as error:
        # Whatever the interpreter raises means that this file does not open; the parent says so.
        send(answers, {"error": str(error) or type(error).__name__})
        return
    while True:
        try:
            header, arrays = receive(requests)
        except EOFError:
            return
        try:
            if header["command"] == "answer":
                send(answers, {}, [reader.answer(arrays[0])])
            else:
                send(answers, {}, [np.array([reader.time(batch) for batch in arrays], np.int64)])
        except Exception as error:
            send(answers, {"error": str(error) or type(error).__name__})


if __name__ == "__main__":
    # Native code writes to standard output as it likes: the channel gets a descriptor of its own.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, channel)
