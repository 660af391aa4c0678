"""The folder of a SavedModel: what lies in it, and whether anything leads out of it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdcli.screening.saved_model.proto import quote_name
from kdcli.screening.verdict import Finding

MODEL_FILE = "saved_model.pb"
_ASSETS = "assets"
# TensorFlow's own limit for one message.
_MODEL_BYTES = 2**31 - 1
# What else is parsed while loading.
_PARSED_BYTES = {
    "fingerprint.pb": 2**20,
    "debug/saved_model_debug_info.pb": 2**28,
    "variables/variables.index": 2**28,
}
_INDEX = "variables/variables.index"
_SHARD = re.compile(r"variables/variables\.data-(\d{5})-of-(\d{5})")
_KNOWN = {MODEL_FILE, _INDEX, "keras_metadata.pb", *_PARSED_BYTES}
_KNOWN_FOLDERS = ("assets/", "assets.extra/")
_ENTRIES = 10_000
COPY_FOLDER_HINT = "copy the whole folder again from where it came from"


@dataclass(frozen=True)
class Contents:
    """What a SavedModel folder holds.

    Args:
        files: regular files, by their path inside the folder, with their bytes.
        findings: what is wrong with them.
    """

    files: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def variable_bytes(self) -> int:
        """The bytes of all shards that hold variables."""
        return sum(size for name, size in self.files.items() if _SHARD.fullmatch(name))


def read_contents(folder: Path) -> Contents:
    """List a SavedModel folder without opening anything in it."""
    files: dict[str, int] = {}
    findings: list[Finding] = []
    for count, (name, mode, size) in enumerate(_entries(folder)):
        if count >= _ENTRIES:
            findings.append(Finding("size", f"more than {_ENTRIES:,} files"))
            break
        if stat.S_ISLNK(mode):
            findings.append(Finding("link", f"{quote_name(name)} is a symbolic link: it leads elsewhere"))
        elif stat.S_ISREG(mode):
            files[name] = size
        elif not stat.S_ISDIR(mode):
            findings.append(Finding("special-file", f"{quote_name(name)} is neither a file nor a folder"))
    findings.extend(_judge(files))
    return Contents(files, tuple(findings))


def _entries(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path inside the folder, mode and bytes of everything in it; links are not followed."""
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


def _judge(files: dict[str, int]) -> Iterator[Finding]:
    for twin in ("saved_model.pbtxt", "saved_model.cpb"):
        if twin in files:
            yield Finding(
                "twin", f"{twin} is a second model beside {MODEL_FILE}, which other programs may open instead"
            )
    for name, most in {MODEL_FILE: _MODEL_BYTES, **_PARSED_BYTES}.items():
        if files.get(name, 0) > most:
            yield Finding("size", f"{name} has {files[name]:,} bytes (at most {most:,})")
    for name in files:
        known = name in _KNOWN or name.startswith(_KNOWN_FOLDERS) or _SHARD.fullmatch(name)
        if not known and name not in ("saved_model.pbtxt", "saved_model.cpb"):
            yield Finding(
                "unknown-file",
                f"{quote_name(name)} is no part of a SavedModel; nothing reads it",
                refused=False,
                hint="",
            )


def check_shards(contents: Contents) -> Iterator[Finding]:
    """What of the variables' files is missing; for a model that has variables."""
    if _INDEX not in contents.files:
        yield Finding(
            "variables",
            f"{_INDEX} is missing: the model has variables, but not their values",
            hint=COPY_FOLDER_HINT,
        )
        return
    found = [match for name in contents.files if (match := _SHARD.fullmatch(name))]
    counts = {int(match[2]) for match in found}
    expected = max(counts, default=1)
    if expected > _ENTRIES or {int(match[1]) for match in found if int(match[2]) == expected} != set(
        range(expected)
    ):
        message = f"{len(found)} of {expected} files with the values of variables are there"
        yield Finding("variables", message, hint=COPY_FOLDER_HINT)


def check_asset(name: str, contents: Contents) -> Iterator[Finding]:
    """What is wrong with the file name of an asset: it leads out of the folder, or is not there."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or "://" in name or "\\" in name or "\0" in name
    if outside or not path.parts:
        yield Finding("asset", f"the asset {quote_name(name)} does not lie in the folder {_ASSETS}")
    elif str(_ASSETS / path) not in contents.files:
        yield Finding("asset", f"the asset {quote_name(name)} is missing", refused=False, hint=COPY_FOLDER_HINT)
