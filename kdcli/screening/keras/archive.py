"""Screening of `.keras` files: zip archives with a configuration, weights and assets."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from kdcli.screening.keras.config import MAX_CONFIG_BYTES, check_config
from kdcli.screening.keras.hdf5 import read_file_size, read_hdf5
from kdcli.screening.verdict import COPY_HINT, Finding, Verdict, quote

_CONFIG, _METADATA, _WEIGHTS, _ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets/"
_MAX_MEMBERS, _MAX_METADATA_BYTES = 10_000, 1_000_000
# Assets are vocabularies: Keras creates a Python string for each line.
_MAX_ASSET_BYTES, _MAX_LINES = 64_000_000, 3_000_000
# How much an archive may grow when it is unpacked; Keras itself compresses nothing.
_SPARE_BYTES, _MAX_EXPANSION = 16_000_000, 30
_LINE_ENDS = (b"\n", b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80")
_CHUNK_BYTES = 4_000_000
_ENCRYPTION_FLAGS = 0x1 | 0x40 | 0x2000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# What `zipfile` raises for damaged archives.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError, EOFError, NotImplementedError)


def screen_keras(path: Path, *, custom_names: Collection[str]) -> Verdict:
    """Screen a `.keras` file.

    Refuses archives that are damaged, unpack to too much or have paths outside, weights as in `screen_hdf5`,
    and configurations that need more than the layers of Keras.

    Args:
        path: a private copy of the file.
        custom_names: names that the user's own code has registered with Keras.

    Raises:
        ModelError: the file cannot be opened.
    """
    size, findings = read_file_size(path), list[Finding]()
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            for check in (_check_names(members), _check_sizes(members, size), _check_contents(archive, members)):
                findings += check
                if any(finding.refused for finding in findings):
                    return Verdict(tuple(findings))
            config, weights = archive.read(_CONFIG), archive.getinfo(_WEIGHTS)
            start = _content_start(file, weights)
    except _ZIP_ERRORS as error:
        message = f"damaged, or not an archive: {str(error)[:150]}"
        return Verdict((*findings, Finding("unreadable", message, hint=COPY_HINT)))
    compressed = weights.compress_type != zipfile.ZIP_STORED
    content = read_hdf5(path, start=start, size=weights.file_size, member=_WEIGHTS if compressed else None)
    stored_values = None if content.findings else content.values
    findings += content.findings
    findings += check_config(config, custom_names=custom_names, stored_values=stored_values, name=_CONFIG)
    return Verdict(tuple(findings), content.values)


def _check_names(members: list[zipfile.ZipInfo]) -> Iterator[Finding]:
    if len(members) > _MAX_MEMBERS:
        yield Finding("size", f"the archive has {len(members):,} members (at most {_MAX_MEMBERS:,})")
        return
    names: set[str] = set()
    for member in members:
        name, mode = member.filename, member.external_attr >> 16
        if member.orig_filename != name or not _is_inside(name):
            yield Finding("path", f"the member {quote(member.orig_filename)} points outside the archive")
        if name.casefold() in names:
            yield Finding("duplicate", f"the member {quote(name)} appears twice in the archive")
        names.add(name.casefold())
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            yield Finding("link", f"the member {quote(name)} is a link or a device, not a file")
        if member.flag_bits & _ENCRYPTION_FLAGS:
            yield Finding("encrypted", f"the member {quote(name)} is encrypted")
        elif member.compress_type not in _METHODS:
            yield Finding("compression", f"the member {quote(name)} uses a compression method that Keras does not")
        if name not in (_CONFIG, _METADATA, _WEIGHTS) and not name.startswith(_ASSETS):
            message = f"the member {quote(name)} is not part of a Keras file and is ignored"
            yield Finding("member", message, refused=False)
    for name in (_CONFIG, _WEIGHTS):
        if name not in names:
            yield Finding("unreadable", f"{name} is missing", hint=COPY_HINT)


def _is_inside(name: str) -> bool:
    parts = name.removesuffix("/").split("/")
    odd = any(mark in name for mark in "\\:\0") or len(name) > 1000
    return not odd and not name.startswith("/") and not {"", ".", ".."} & set(parts)


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> Iterator[Finding]:
    limits = {_CONFIG: MAX_CONFIG_BYTES, _METADATA: _MAX_METADATA_BYTES}
    for member in members:
        most = limits.get(member.filename, member.file_size)
        if member.file_size > most:
            yield Finding("size", f"{member.filename} has {member.file_size:,} bytes (at most {most:,})")
    assets = sum(member.file_size for member in members if member.filename.startswith(_ASSETS))
    if assets > _MAX_ASSET_BYTES:
        yield Finding("size", f"the assets unpack to {assets:,} bytes (at most {_MAX_ASSET_BYTES:,})")
    unpacked = sum(member.file_size for member in members)
    if unpacked > _SPARE_BYTES + _MAX_EXPANSION * size:
        yield Finding("size", f"the archive of {size:,} bytes unpacks to {unpacked:,} bytes")
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            yield Finding("damaged", f"the member {quote(member.filename)} overlaps another one")
        end = member.header_offset + _LOCAL_HEADER.size + len(member.filename) + member.compress_size
    if end > size:
        yield Finding("damaged", "the members extend past the end of the archive")


def _check_contents(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[Finding]:
    """Unpack every member once, which checks its length and checksum, and count the lines of assets."""
    lines = 0
    for member in members:
        is_asset = member.filename.startswith(_ASSETS)
        with archive.open(member) as content:
            while chunk := content.read(_CHUNK_BYTES):
                lines += sum(chunk.count(end) for end in _LINE_ENDS) if is_asset else 0
    if lines > _MAX_LINES:
        yield Finding("size", f"the assets have {lines:,} lines (at most {_MAX_LINES:,})")


def _content_start(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """The offset of a member's content; `zipfile` has checked its header."""
    file.seek(member.header_offset)
    _, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return member.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)
