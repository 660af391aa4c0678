"""Screening of HDF5 files: `.h5` models, and the weights in `.keras` files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.screening.keras import hdf5_process
from kdcli.screening.keras.config import check_config
from kdcli.screening.keras.hdf5_process import UNREADABLE
from kdcli.screening.verdict import COPY_HINT, Finding, Verdict

# What the child may take: so much for itself, and so much for each byte of the file.
_MEMORY_BYTES, _CPU_SECONDS, _TIMEOUT_SECONDS = 700_000_000, 2, 30
_BYTES_PER_SECOND = 5_000_000


@dataclass(frozen=True)
class Hdf5:
    """What lies in an HDF5 file.

    Args:
        findings: what it is refused for.
        values: how many numbers its datasets hold.
        config: the configuration of the model, if it holds one.
    """

    findings: tuple[Finding, ...]
    values: int = 0
    config: str | None = None


def screen_hdf5(path: Path, *, custom_names: Collection[str]) -> Verdict:
    """What a `.h5` file could do.

    Refused are links and values outside of the file, filters that are libraries, values that the file cannot
    fill, damaged files, and configurations that ask for more than Keras' own layers.

    Args:
        path: of a private copy.
        custom_names: names that the user's own files have registered with Keras.

    Raises:
        ModelError: it cannot be opened.
    """
    read = read_hdf5(path, start=0, size=read_file_size(path))
    findings = list(read.findings)
    held = None if findings else read.values
    if read.config is not None:
        text = read.config.encode("utf-8", "replace")
        findings += check_config(text, code=custom_names, held=held, where="its model_config")
    elif not findings:
        findings.append(
            Finding("no-model", "it holds weights, but no model", hint="save the whole model: model.save(FILE)")
        )
    return Verdict(tuple(findings), read.values)


def screen_weights(path: Path) -> Verdict:
    """What a `.h5` file could do to who reads nothing but weights from it."""
    return Verdict(read_hdf5(path, start=0, size=read_file_size(path)).findings)


def read_file_size(path: Path) -> int:
    """Bytes of a file that can be opened.

    Raises:
        ModelError: it cannot.
    """
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


def read_hdf5(path: Path, *, start: int, size: int, member: str | None = None) -> Hdf5:
    """Read an HDF5 file in a child process that may die of it.

    Args:
        path: the file, or the archive that it lies in.
        start: where in it, in bytes.
        size: of the HDF5 file, unpacked.
        member: of an archive, where it lies there compressed.
    """
    seconds = _TIMEOUT_SECONDS + size / _BYTES_PER_SECOND
    request = {
        "path": os.fspath(path.absolute()),
        "start": start,
        "size": size,
        "member": member,
        # Unpacking joins parts.
        "memory": _MEMORY_BYTES + (3 * size if member else 0),
        "seconds": _CPU_SECONDS + size // _BYTES_PER_SECOND,
    }
    # Without the current folder among the places to import from, and without a search for filters.
    command = [sys.executable, "-P", "-m", hdf5_process.__name__]
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        answer, _ = process.communicate(json.dumps(request).encode() + b"\n", timeout=seconds)
    except subprocess.TimeoutExpired:
        return Hdf5((_damaged(f"reading it hung and was ended after {seconds:.0f} s"),))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode < 0:
        number = -process.returncode
        return Hdf5((_damaged(f"it ended its reader (signal {number}, {signal.Signals(number).name})"),))
    try:
        found: dict[str, Any] = json.loads(answer)
        faults = found["faults"]
        findings = tuple(_damaged(text) if rule == UNREADABLE else Finding(rule, text) for rule, text in faults)
        return Hdf5(findings, found["values"], found["config"])
    except (ValueError, KeyError, TypeError):
        return Hdf5((_damaged(f"its reader ended without an answer (exit code {process.returncode})"),))


def _damaged(message: str) -> Finding:
    return Finding(UNREADABLE, f"damaged: {message}", hint=COPY_HINT)
