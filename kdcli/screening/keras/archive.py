"""Screening of `.keras` files: archives with a configuration, weights and the files of layers."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from kdcli.screening.keras.config import MAX_CONFIG_BYTES as MOST_CONFIG_BYTES
from kdcli.screening.keras.config import check_config
from kdcli.screening.keras.hdf5 import Hdf5, read_file_size, read_hdf5
from kdcli.screening.keras.objects import quote
from kdcli.screening.verdict import COPY_HINT, Finding, Verdict

CONFIG, METADATA, WEIGHTS, _ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets/"
MOST_MEMBERS, MOST_METADATA_BYTES = 10_000, 1_000_000
# Vocabularies: Keras makes a Python string of each line.
MOST_ASSET_BYTES, MOST_LINES = 64_000_000, 3_000_000
# What an archive may become when it is unpacked; Keras itself compresses nothing.
_SPARE_BYTES, _MAX_EXPANSION = 16_000_000, 30
_LINE_ENDS = (b"\n", b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80")
_READ = 4_000_000
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# Whatever the reader of archives meets in a damaged one.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError, EOFError, NotImplementedError)


def screen_keras(path: Path, *, custom_names: Collection[str]) -> Verdict:
    """What a `.keras` file could do.

    Refused are archives that unpack to too much or to places outside, damaged ones, weights as in `screen_hdf5`,
    and configurations that ask for more than Keras' own layers.

    Args:
        path: of a private copy.
        custom_names: names that the user's own files have registered with Keras.

    Raises:
        ModelError: it cannot be opened.
    """
    size, findings = read_file_size(path), list[Finding]()
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            for check in (_check_names(members), _check_sizes(members, size), _check_contents(archive, members)):
                findings += check
                if any(finding.refused for finding in findings):
                    return Verdict(tuple(findings))
            config, weights = archive.read(CONFIG), archive.getinfo(WEIGHTS)
            start = _start(file, weights)
    except _DAMAGED as error:
        finding = Finding("unreadable", f"damaged, or no archive: {str(error)[:150]}", hint=COPY_HINT)
        return Verdict((*findings, finding))
    packed = weights.compress_type != zipfile.ZIP_STORED
    read: Hdf5 = read_hdf5(path, start=start, size=weights.file_size, member=WEIGHTS if packed else None)
    held = None if read.findings else read.values
    findings += (*read.findings, *check_config(config, code=custom_names, held=held, where=CONFIG))
    return Verdict(tuple(findings), read.values)


def _check_names(members: list[zipfile.ZipInfo]) -> Iterator[Finding]:
    if len(members) > MOST_MEMBERS:
        yield Finding("size", f"it has {len(members)} members, {MOST_MEMBERS} are the most")
        return
    names: set[str] = set()
    for member in members:
        name, mode = member.filename, member.external_attr >> 16
        if member.orig_filename != name or not _is_inside(name):
            yield Finding("path", f"the member {quote(member.orig_filename)} leads out of the archive")
        if name.casefold() in names:
            yield Finding("duplicate", f"the member {quote(name)} stands in the archive twice")
        names.add(name.casefold())
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            yield Finding("link", f"the member {quote(name)} is a link or a device, not a file")
        if member.flag_bits & _ENCRYPTED:
            yield Finding("encrypted", f"the member {quote(name)} is encrypted")
        elif member.compress_type not in _METHODS:
            yield Finding(
                "compression", f"the member {quote(name)} is compressed in a way that Keras does not use"
            )
        if name not in (CONFIG, METADATA, WEIGHTS) and not name.startswith(_ASSETS):
            yield Finding("member", f"Keras writes no member {quote(name)}; it is not used", refused=False)
    for name in (CONFIG, WEIGHTS):
        if name not in names:
            yield Finding("unreadable", f"its {name} is missing", hint=COPY_HINT)


def _is_inside(name: str) -> bool:
    parts = name.removesuffix("/").split("/")
    odd = any(mark in name for mark in "\\:\0") or len(name) > 1000
    return not odd and not name.startswith("/") and not {"", ".", ".."} & set(parts)


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> Iterator[Finding]:
    most = {CONFIG: MOST_CONFIG_BYTES, METADATA: MOST_METADATA_BYTES}
    for member in members:
        if member.file_size > most.get(member.filename, member.file_size):
            told = f"{member.filename} has {member.file_size} bytes, {most[member.filename]} are the most"
            yield Finding("size", told)
    assets = sum(member.file_size for member in members if member.filename.startswith(_ASSETS))
    if assets > MOST_ASSET_BYTES:
        yield Finding("size", f"its assets unpack to {assets} bytes, {MOST_ASSET_BYTES} are the most")
    unpacked = sum(member.file_size for member in members)
    if unpacked > _SPARE_BYTES + _MAX_EXPANSION * size:
        yield Finding("size", f"it unpacks from {size} bytes to {unpacked}")
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            yield Finding("damaged", f"the member {quote(member.filename)} lies in the midst of another one")
        end = member.header_offset + _LOCAL_HEADER.size + len(member.filename) + member.compress_size
    if end > size:
        yield Finding("damaged", "its members are longer than the archive")


def _check_contents(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[Finding]:
    """Unpack every member once, which checks its length and checksum."""
    lines = 0
    for member in members:
        text = member.filename.startswith(_ASSETS)
        with archive.open(member) as content:
            while part := content.read(_READ):
                lines += sum(part.count(end) for end in _LINE_ENDS) if text else 0
    if lines > MOST_LINES:
        yield Finding("size", f"its assets have {lines} lines, {MOST_LINES} are the most")


def _start(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where the content of a member begins; the reader of archives has checked its header."""
    file.seek(member.header_offset)
    _, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return member.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)
