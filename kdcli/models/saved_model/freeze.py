"""Freeze a SavedModel to a graph of constants, in a child process whose crash does not end kd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

import kdcli
from kdcli.errors import ModelError, UsageError
from kdcli.models.saved_model.frozen_graph import (
    DESCRIPTION_FILE,
    GRAPH_FILE,
    FrozenGraph,
    GraphTensor,
    WeightInfo,
)

# A graph of constants is one protobuf message, which cannot exceed 2 GB.
MAX_WEIGHT_BYTES = 1_800_000_000
# Limits of the child process: a fixed part, and a part for each byte of the model.
_TIMEOUT_SECONDS, _TIMEOUT_SECONDS_PER_BYTE = 120.0, 1e-7
_MEMORY_BYTES, _MEMORY_BYTES_PER_BYTE = 3 << 29, 16
# Thread stacks count against the limit even while they are unused.
_MEMORY_BYTES_PER_CORE = 64 << 20
_MAX_FILE_BYTES = 2_100_000_000
_POLL_SECONDS = 0.05
# -P keeps the current folder out of the import path.
_COMMAND = ("-P", "-m", "kdcli.models.saved_model.child_main")


class FreezeProcess:
    """A child process that freezes a model; it starts at once, and `result` waits for it.

    Args:
        path: screened SavedModel folder, or with `legacy` a Keras 2 file.
        name: name of the model in messages.
        signature: name of the signature; `serving_default` or the only one if omitted.
        legacy: open the file with `tf_keras`.
        threads: number of threads TensorFlow uses in the child process.
        values: fixed values of some inputs, by input name.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        signature: str | None = None,
        legacy: bool = False,
        threads: int | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        entries = [path, *path.rglob("*")] if path.is_dir() else [path]
        size = sum(entry.stat().st_size for entry in entries if entry.is_file())
        self._timeout_seconds = _TIMEOUT_SECONDS + _TIMEOUT_SECONDS_PER_BYTE * size
        cores = os.cpu_count() or 1
        self._memory_bytes = _MEMORY_BYTES + _MEMORY_BYTES_PER_BYTE * size + _MEMORY_BYTES_PER_CORE * cores
        self._scratch = tempfile.TemporaryDirectory(prefix="kd-")
        request = {
            "path": os.fspath(path.absolute()),
            "scratch": self._scratch.name,
            "signature": signature,
            "legacy": legacy,
            "values": dict(values or {}),
            "threads": threads or 0,
            "max_weight_bytes": min(MAX_WEIGHT_BYTES, psutil.virtual_memory().available // _MEMORY_BYTES_PER_BYTE),
            "memory": self._memory_bytes,
            "file_bytes": _MAX_FILE_BYTES,
            "cpu_seconds": int(self._timeout_seconds) * cores + 1,
        }
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *_COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_make_environment(legacy=legacy),
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.close()
        except BrokenPipeError:
            # The child has ended already; `result` reports it.
            pass

    def __enter__(self) -> FreezeProcess:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process and remove its files; may be called twice."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._scratch.cleanup()

    def result(self) -> FrozenGraph:
        """Wait for the child process and read what it wrote.

        Raises:
            ModelError: the model does not load, fails on a test batch, or crashed the process.
            UsageError: the model has no such signature, or several to choose from.
        """
        stopped = self._wait()
        if stopped is not None or self._process.returncode != 0:
            raise ModelError(f"{self.name}: {stopped or self._describe_exit()}", hint="save the model again")
        return read_frozen_graph(Path(self._scratch.name), name=self.name)

    def _wait(self) -> str | None:
        """Wait for the child; return why it was stopped, or None if it ended by itself."""
        while True:
            try:
                self._process.wait(_POLL_SECONDS)
                return None
            except subprocess.TimeoutExpired:
                pass
            if time.monotonic() - self._began > self._timeout_seconds:
                self._process.kill()
                return f"opening the model did not finish within {self._timeout_seconds:.0f} s"
            if _measure_memory(self._process.pid) > self._memory_bytes:
                self._process.kill()
                return f"opening the model needs more than {self._memory_bytes / 1e9:.0f} GB of memory"

    def _describe_exit(self) -> str:
        code = self._process.wait()
        if code < 0:
            crash = f"signal {-code}, {signal.Signals(-code).name}"
            return (
                f"the model crashed the process that opened it ({crash}): damaged, or too large for this machine"
            )
        return f"the process that opened the model failed (exit code {code})"


def read_frozen_graph(scratch: Path, *, name: str) -> FrozenGraph:
    """Read what the freezing process wrote to a folder.

    Raises:
        ModelError: the process could not freeze or describe the model.
        UsageError: the process refused an option.
    """
    description: dict[str, Any] = json.loads((scratch / DESCRIPTION_FILE).read_text("utf-8"))
    if "error" in description:
        kind = UsageError if description["usage"] else ModelError
        raise kind(f"{name}: {description['error']}", hint=description["hint"])
    for side in ("inputs", "outputs"):
        description[side] = tuple(_read_tensor(tensor) for tensor in description[side])
    description["weights"] = tuple(WeightInfo(**weight) for weight in description["weights"])
    description["signatures"] = tuple(description["signatures"])
    graph = None if description["unfrozen_reason"] else (scratch / GRAPH_FILE).read_bytes()
    return FrozenGraph(**description, graph=graph)


def _read_tensor(document: dict[str, Any]) -> GraphTensor:
    shape = document["shape"]
    return GraphTensor(**{**document, "shape": None if shape is None else tuple(shape)})


def _measure_memory(process: int) -> int:
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:
        # The process has ended in the meantime.
        return 0


def _make_environment(*, legacy: bool) -> dict[str, str]:
    """The child's environment: the same kd, no accelerator, Keras 2 or Keras 3."""
    paths = [os.fspath(Path(kdcli.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    changes = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_USE_LEGACY_KERAS": "1" if legacy else "0",
    }
    return {**os.environ, **changes}
