"""Cold start: what opening a file and running it once takes in a fresh process, and how much memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kdcli.errors import ModelError, summarize_error
from kdcli.evaluation.latency import cold_process
from kdcli.runs.latency_results import ColdStart

# Number of starts of each file; the result is their median.
_STARTS, _TIMEOUT_SECONDS = 3, 300.0


def measure_cold_start(
    path: Path, form: str, inputs: Sequence[tuple[tuple[int, ...], str]], *, batch: int = 1
) -> ColdStart:
    """Start a process a few times that imports the runtime, opens a file and runs one example of zeros.

    Args:
        path: the file.
        form: `keras`, `saved_model`, `tflite` or `onnx`.
        inputs: shape without the batch axis, and type, of each input.
        batch: number of examples; the only batch size of a file that has one.

    Raises:
        ModelError: the process failed.
    """
    shapes = [([batch, *shape], dtype) for shape, dtype in inputs]
    found = [_start(path, form, shapes) for _ in range(_STARTS)]
    return ColdStart(**{name: statistics.median(one[name] for one in found) for name in found[0]})


def _start(path: Path, form: str, shapes: Sequence[tuple[list[int], str]]) -> dict[str, float]:
    arguments = json.dumps([form, str(path), shapes, time.time()])
    command, limit = [sys.executable, "-P", cold_process.__file__], _TIMEOUT_SECONDS
    try:
        done = subprocess.run(command, input=arguments, capture_output=True, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{path}: a cold start took more than {_TIMEOUT_SECONDS:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{path}: a cold start failed: {summarize_error(RuntimeError(last)):.300}") from error
    values: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return values
