"""A SavedModel frozen to a graph of constants, in a child process that may die without taking kd along."""

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
from kdcli.models.saved_model.frozen import DESCRIPTION_FILE, GRAPH_FILE, FrozenGraph, GraphTensor, WeightInfo

# Bytes of weights that still fit into one graph of constants: protobuf ends at 2 GB.
MAX_WEIGHT_BYTES = 1_800_000_000
# What the child may take: so much on its own account, and so much for each byte of the model.
_TIMEOUT_SECONDS, _TIMEOUT_SECONDS_PER_BYTE = 120.0, 1e-7
_MEMORY_BYTES, _MEMORY_BYTES_PER_BYTE = 3 << 29, 16
# Each thread's stack counts as taken, used or not.
_MEMORY_BYTES_PER_CORE = 64 << 20
_MAX_FILE_BYTES = 2_100_000_000
_WATCH = 0.05
# Without the current folder among the places to import from.
_COMMAND = ("-P", "-m", "kdcli.models.saved_model.freeze_process")


class FreezeProcess:
    """Freezes a model in a child process, which starts at once; `result` waits for it.

    Args:
        path: a SavedModel folder that was screened, or with `legacy` a file of Keras 2.
        name: what messages call it.
        signature: which one; `serving_default` or the only one when left out.
        legacy: open it with `tf_keras`.
        threads: of the child's operations.
        values: what some inputs hold in every answer, by name.
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
        self._seconds = _TIMEOUT_SECONDS + _TIMEOUT_SECONDS_PER_BYTE * size
        self._memory = (
            _MEMORY_BYTES + _MEMORY_BYTES_PER_BYTE * size + _MEMORY_BYTES_PER_CORE * (os.cpu_count() or 1)
        )
        self._scratch = tempfile.TemporaryDirectory(prefix="kd-")
        request = {
            "path": os.fspath(path.absolute()),
            "scratch": self._scratch.name,
            "signature": signature,
            "legacy": legacy,
            "values": dict(values or {}),
            "threads": threads or 0,
            "largest": min(MAX_WEIGHT_BYTES, psutil.virtual_memory().available // _MEMORY_BYTES_PER_BYTE),
            "memory": self._memory,
            "file_bytes": _MAX_FILE_BYTES,
            "cpu_seconds": int(self._seconds) * (os.cpu_count() or 1) + 1,
        }
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *_COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(legacy=legacy),
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.close()
        except BrokenPipeError:
            # It died at once; whoever waits for the result is told.
            pass

    def __enter__(self) -> FreezeProcess:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process and remove what it wrote; closing twice is no error."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._scratch.cleanup()

    def result(self) -> FrozenGraph:
        """What became of the model.

        Raises:
            ModelError: it does not load, does not answer, or ended its process.
            UsageError: a signature that it does not have, or several to choose from.
        """
        ended = self._wait()
        if ended is not None or self._process.returncode != 0:
            raise ModelError(f"{self.name}: {ended or self._ending()}", hint="save the model anew")
        return read_frozen_graph(Path(self._scratch.name), name=self.name)

    def _wait(self) -> str | None:
        """Wait for the child; in words why it was ended, if it was."""
        while True:
            try:
                self._process.wait(_WATCH)
                return None
            except subprocess.TimeoutExpired:
                pass
            if time.monotonic() - self._began > self._seconds:
                self._process.kill()
                return f"the model hung while it was opened and was ended after {self._seconds:.0f} s"
            if _memory_of(self._process.pid) > self._memory:
                self._process.kill()
                return f"opening the model takes more than {self._memory / 1e9:.0f} GB of memory"

    def _ending(self) -> str:
        code = self._process.wait()
        if code < 0:
            named = f"signal {-code}, {signal.Signals(-code).name}"
            return f"the model ended its reader ({named}): it is damaged, or too large for this machine"
        return f"its reader ended (exit code {code})"


def read_frozen_graph(scratch: Path, *, name: str) -> FrozenGraph:
    """What the child process left in a folder.

    Raises:
        ModelError, UsageError: why there is no graph.
    """
    found: dict[str, Any] = json.loads((scratch / DESCRIPTION_FILE).read_text("utf-8"))
    if "error" in found:
        kind = UsageError if found["usage"] else ModelError
        raise kind(f"{name}: {found['error']}", hint=found["hint"])
    for side in ("inputs", "outputs"):
        found[side] = tuple(_info(one) for one in found[side])
    found["weights"] = tuple(WeightInfo(**one) for one in found["weights"])
    found["signatures"] = tuple(found["signatures"])
    graph = None if found["unfrozen"] else (scratch / GRAPH_FILE).read_bytes()
    return FrozenGraph(**found, graph=graph)


def _memory_of(process: int) -> int:
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:
        # It has ended meanwhile.
        return 0


def _environment(*, legacy: bool) -> dict[str, str]:
    """The child's environment: kd is found where it is now, no accelerator is touched, one Keras is there."""
    paths = [os.fspath(Path(kdcli.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    own = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_USE_LEGACY_KERAS": "1" if legacy else "0",
    }
    return {**os.environ, **own}


def _info(described: dict[str, Any]) -> GraphTensor:
    shape = described["shape"]
    return GraphTensor(**{**described, "shape": None if shape is None else tuple(shape)})
