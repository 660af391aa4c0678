"""The fresh process of a cold start: it imports the runtime, opens the file, and runs it once.

It runs as a script without kdcli: what is measured is what an app pays.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_MILLISECONDS = 1000.0


def main(form: str, path: str, shapes: Sequence[tuple[list[int], str]], started: float) -> dict[str, float]:
    """Measure one start.

    Args:
        form: `keras`, `saved_model`, `tflite` or `onnx`.
        path: the file.
        shapes: shape with a batch axis of 1, and type, of each input.
        started: seconds since the epoch when the process was started.
    """
    inputs = [np.zeros(shape, dtype) for shape, dtype in shapes]
    began = time.perf_counter()
    import_runtime = _RUNTIMES[form]
    open_file = import_runtime()
    imported = time.perf_counter()
    run = open_file(path)
    opened = time.perf_counter()
    run(inputs)
    ended = time.perf_counter()
    return {
        "import_ms": (imported - began) * _MILLISECONDS,
        "open_ms": (opened - imported) * _MILLISECONDS,
        "first_ms": (ended - opened) * _MILLISECONDS,
        "total_ms": (time.time() - started) * _MILLISECONDS,
        "peak_mb": _read_peak_bytes() / 1e6,
    }


def _read_peak_bytes() -> int:
    """The largest resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # `getrusage` gives the peak of the parent, if that is larger.
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _import_litert() -> Callable[[str], Callable[[Any], Any]]:
    from ai_edge_litert.interpreter import Interpreter

    def open_file(path: str) -> Callable[[Any], Any]:
        interpreter = Interpreter(model_path=path)
        interpreter.allocate_tensors()

        def run(inputs: Any) -> Any:
            for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
                interpreter.set_tensor(detail["index"], value)
            interpreter.invoke()
            return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

        return run

    return open_file


def _import_onnxruntime() -> Callable[[str], Callable[[Any], Any]]:
    import onnxruntime

    def open_file(path: str) -> Callable[[Any], Any]:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))

    return open_file


def _import_keras() -> Callable[[str], Callable[[Any], Any]]:
    import keras

    def open_file(path: str) -> Callable[[Any], Any]:
        model = keras.saving.load_model(path, compile=False)
        if isinstance(model, keras.Sequential):
            return lambda inputs: model(inputs[0], training=False)
        return lambda inputs: model(keras.tree.pack_sequence_as(model.input, list(inputs)), training=False)

    return open_file


def _import_tensorflow() -> Callable[[str], Callable[[Any], Any]]:
    import tensorflow as tf

    def open_file(path: str) -> Callable[[Any], Any]:
        signature = tf.saved_model.load(path).signatures["serving_default"]
        names = list(signature.structured_input_signature[1])
        return lambda inputs: signature(**dict(zip(names, map(tf.constant, inputs), strict=True)))

    return open_file


_RUNTIMES = {
    "tflite": _import_litert,
    "onnx": _import_onnxruntime,
    "keras": _import_keras,
    "saved_model": _import_tensorflow,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*json.load(sys.stdin))) + "\n")
