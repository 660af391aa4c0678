"""What a run records so that others can judge and repeat it: hashes, versions, machine, arguments."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.runs.mapped_arrays import PiecewiseArray, iterate_parts

PACKAGES = ("kdcli", "tensorflow", "keras", "numpy", "typer", "pydantic", "PyYAML")
_SECRET = re.compile(r"(?i)(token|secret|passw|api[-_]?key|credential)")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_model(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's file names and contents, in hexadecimal; links are skipped."""
    if not path.is_dir():
        return hash_file(path)
    digest = hashlib.sha256()
    for entry in sorted(path.rglob("*")):
        if entry.is_file() and not entry.is_symlink():
            digest.update(f"{entry.relative_to(path).as_posix()}\0{hash_file(entry)}\n".encode())
    return digest.hexdigest()


def hash_arrays(arrays: Iterable[Any]) -> str:
    """Return the sha256 of arrays, in order, in hexadecimal; mapped arrays may be larger than memory."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        for piece in array.pieces() if isinstance(array, PiecewiseArray) else (array,):
            for _, part in iterate_parts(np.atleast_1d(piece)):
                digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def collect_versions() -> dict[str, str | None]:
    """Collect the versions of Python and of the packages that results depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def describe_machine() -> dict[str, Any]:
    """Describe system, processor and cores."""
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }


def read_arguments() -> list[str]:
    """Return the command line, with values that look like secrets hidden."""
    return redact_words(sys.argv[1:])


def redact_words(words: Iterable[str]) -> list[str]:
    """Hide the values of options and settings whose names look secret."""
    hidden, hide_next = [], False
    for word in words:
        if hide_next:
            hidden.append("***")
            hide_next = False
            continue
        name, equals, _ = word.partition("=")
        if _SECRET.search(name) and equals:
            word = f"{name}=***"
        hide_next = bool(_SECRET.search(name)) and name.startswith("--") and not equals
        hidden.append(_CREDENTIALS.sub("://***@", word))
    return hidden


def redact_document(document: Any) -> Any:
    """Hide the values of a JSON document whose keys look secret, and credentials in addresses."""
    if isinstance(document, Mapping):
        return {
            key: "***" if _SECRET.search(str(key)) and isinstance(value, str) else redact_document(value)
            for key, value in document.items()
        }
    if isinstance(document, list | tuple):
        return [redact_document(value) for value in document]
    if isinstance(document, str):
        return _CREDENTIALS.sub("://***@", document)
    return document
