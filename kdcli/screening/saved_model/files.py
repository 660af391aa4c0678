"""The files in the folder of a SavedModel, and the rules for them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdcli.screening.verdict import Finding, quote

MODEL_FILE = "saved_model.pb"
_ASSETS = "assets"
# The limits of the files that loading parses, in bytes; the first is the limit of TensorFlow for one message.
_MAX_BYTES = {
    MODEL_FILE: 2**31 - 1,
    "fingerprint.pb": 2**20,
    "debug/saved_model_debug_info.pb": 2**28,
    "variables/variables.index": 2**28,
}
_INDEX = "variables/variables.index"
_SHARD = re.compile(r"variables/variables\.data-(\d{5})-of-(\d{5})")
_OTHER_MODELS = ("saved_model.pbtxt", "saved_model.cpb")
_KNOWN = {_INDEX, "keras_metadata.pb", *_MAX_BYTES, *_OTHER_MODELS}
_KNOWN_FOLDERS = ("assets/", "assets.extra/")
_MAX_ENTRIES = 10_000
COPY_FOLDER_HINT = "copy the whole folder again from its source"


@dataclass(frozen=True)
class Contents:
    """The contents of a SavedModel folder.

    Args:
        files: sizes in bytes of the regular files, by their path inside the folder.
        findings: faults of the files.
    """

    files: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def variable_bytes(self) -> int:
        """Size in bytes of all files with values of variables."""
        return sum(size for name, size in self.files.items() if _SHARD.fullmatch(name))


def read_contents(folder: Path) -> Contents:
    """List a SavedModel folder without opening anything in it."""
    files: dict[str, int] = {}
    findings: list[Finding] = []
    for count, (name, mode, size) in enumerate(_entries(folder)):
        if count >= _MAX_ENTRIES:
            findings.append(Finding("size", f"the folder contains more than {_MAX_ENTRIES:,} entries"))
            break
        if stat.S_ISLNK(mode):
            findings.append(Finding("link", f"{quote(name)} is a symbolic link, not a file"))
        elif stat.S_ISREG(mode):
            files[name] = size
        elif not stat.S_ISDIR(mode):
            findings.append(Finding("special-file", f"{quote(name)} is neither a file nor a folder"))
    findings.extend(_check_files(files))
    return Contents(files, tuple(findings))


def _entries(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path, mode and size in bytes of everything in the folder; links are not followed."""
    waiting = [PurePosixPath()]
    while waiting:
        inside = waiting.pop()
        with os.scandir(folder / inside) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                status = entry.stat(follow_symlinks=False)
                path = inside / entry.name
                yield str(path), status.st_mode, status.st_size
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)


def _check_files(files: dict[str, int]) -> Iterator[Finding]:
    for name in _OTHER_MODELS:
        if name in files:
            message = f"{name} is a second model next to {MODEL_FILE}; other programs may open it instead"
            yield Finding("twin", message)
    for name, most in _MAX_BYTES.items():
        if files.get(name, 0) > most:
            yield Finding("size", f"{name} has {files[name]:,} bytes (at most {most:,})")
    for name in files:
        if name not in _KNOWN and not name.startswith(_KNOWN_FOLDERS) and not _SHARD.fullmatch(name):
            message = f"{quote(name)} is not part of a SavedModel and is ignored"
            yield Finding("unknown-file", message, refused=False, hint="")


def check_shards(contents: Contents) -> Iterator[Finding]:
    """Refuse a folder in which files with values of variables are missing; for a model that has variables."""
    if _INDEX not in contents.files:
        message = f"{_INDEX} is missing: the model has variables but not their values"
        yield Finding("variables", message, hint=COPY_FOLDER_HINT)
        return
    shards = [(int(match[1]), int(match[2])) for name in contents.files if (match := _SHARD.fullmatch(name))]
    expected = max((count for _, count in shards), default=1)
    found = {number for number, count in shards if count == expected}
    if expected > _MAX_ENTRIES or found != set(range(expected)):
        message = f"the folder has {len(shards)} of {expected} files with values of variables"
        yield Finding("variables", message, hint=COPY_FOLDER_HINT)


def check_asset(name: str, contents: Contents) -> Iterator[Finding]:
    """Refuse the file name of an asset outside the folder; a missing asset is only reported."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or "://" in name or "\\" in name or "\0" in name
    if outside or not path.parts:
        yield Finding("asset", f"the asset {quote(name)} is outside the folder {_ASSETS}")
    elif str(_ASSETS / path) not in contents.files:
        yield Finding("asset", f"the asset {quote(name)} is missing", refused=False, hint=COPY_FOLDER_HINT)
