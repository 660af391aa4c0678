"""Screening of HDF5 files: `.h5` models, and the weights in `.keras` files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.screening.keras import hdf5_process
from kdcli.screening.keras.config import check_config
from kdcli.screening.keras.hdf5_process import UNREADABLE
from kdcli.screening.verdict import COPY_HINT, Finding, Verdict

# Limits of the child process, to which more is added for each byte of the file.
_MEMORY_BYTES, _CPU_SECONDS, _TIMEOUT_SECONDS = 700_000_000, 2, 30
_BYTES_PER_SECOND = 5_000_000


@dataclass(frozen=True)
class Hdf5Content:
    """What an HDF5 file contains.

    Args:
        findings: what the file is refused for.
        values: number of values in all datasets.
        config: the configuration of the model, if there is one.
    """

    findings: tuple[Finding, ...]
    _: KW_ONLY
    values: int = 0
    config: str | None = None


def screen_hdf5(path: Path, *, custom_names: Collection[str]) -> Verdict:
    """Screen a `.h5` file.

    Refuses links and values outside the file, filters that need a plugin, values that the file cannot fill,
    damaged files, and configurations that need more than the layers of Keras.

    Args:
        path: a private copy of the file.
        custom_names: names that the user's own code has registered with Keras.

    Raises:
        ModelError: the file cannot be opened.
    """
    content = read_hdf5(path, start=0, size=read_file_size(path))
    findings = list(content.findings)
    stored_values = None if findings else content.values
    if content.config is not None:
        text = content.config.encode("utf-8", "replace")
        findings += check_config(
            text, custom_names=custom_names, stored_values=stored_values, name="the attribute model_config"
        )
    elif not findings:
        hint = "save the whole model: model.save(FILE)"
        findings.append(Finding("no-model", "the file contains weights but no model", hint=hint))
    return Verdict(tuple(findings), content.values)


def screen_weights(path: Path) -> Verdict:
    """Screen a `.h5` file of which only the weights are read."""
    return Verdict(read_hdf5(path, start=0, size=read_file_size(path)).findings)


def read_file_size(path: Path) -> int:
    """The size in bytes of a file that can be opened.

    Raises:
        ModelError: the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


def read_hdf5(path: Path, *, start: int, size: int, member: str | None = None) -> Hdf5Content:
    """Read an HDF5 file in a child process, which a damaged file may crash.

    Args:
        path: the file, or the archive that contains it.
        start: offset of the HDF5 file in bytes.
        size: unpacked size of the HDF5 file in bytes.
        member: name of a compressed archive member to read instead of `start`.
    """
    seconds = _TIMEOUT_SECONDS + size / _BYTES_PER_SECOND
    request = {
        "path": os.fspath(path.absolute()),
        "start": start,
        "size": size,
        "member": member,
        # Unpacking needs more than one copy of the content.
        "memory": _MEMORY_BYTES + (3 * size if member else 0),
        "seconds": _CPU_SECONDS + size // _BYTES_PER_SECOND,
    }
    # Nothing is imported from the current folder, and HDF5 does not search for filter plugins.
    command = [sys.executable, "-P", "-m", hdf5_process.__name__]
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        reply, _ = process.communicate(json.dumps(request).encode() + b"\n", timeout=seconds)
    except subprocess.TimeoutExpired:
        return _report_damage(f"reading the file took longer than {seconds:.0f} s")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode < 0:
        number = -process.returncode
        return _report_damage(f"the file crashed its reader (signal {number}, {signal.Signals(number).name})")
    try:
        result: dict[str, Any] = json.loads(reply)
        findings = tuple(_make_finding(rule, message) for rule, message in result["faults"])
        return Hdf5Content(findings, values=result["values"], config=result["config"])
    except (ValueError, KeyError, TypeError):
        return _report_damage(f"its reader ended without a result (exit code {process.returncode})")


def _report_damage(message: str) -> Hdf5Content:
    return Hdf5Content((_make_finding(UNREADABLE, message),))


def _make_finding(rule: str, message: str) -> Finding:
    if rule == UNREADABLE:
        return Finding(rule, f"damaged: {message}", hint=COPY_HINT)
    return Finding(rule, message)
