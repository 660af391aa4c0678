"""Lists and removes the entries of the cache. Files that kd did not write are never touched."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.decisions import list_entry_folders
from kdcli.cache.entry import CREATING_LOCK_FILE, USED_FILE
from kdcli.cache.folder import add_write_hints
from kdcli.cache.layout import is_shard_name
from kdcli.cache.locks import ENTRY_LOCK_FILE, HOLDER_FILE, acquire_entry_lock
from kdcli.cache.metadata import KEY_CHARACTERS, METADATA_FILE, EntryMetadata, read_metadata
from kdcli.errors import UsageError, did_you_mean
from kdcli.runs import writer


@dataclass(frozen=True)
class ListedEntry:
    """An entry on disk; its shards are counted, not read.

    Args:
        path: the folder.
        metadata: its metadata; None if it is damaged.
        bytes: size of all its files.
        shards: number of shards that exist.
        used: when it was last read, or else created or filled; date and time in UTC.
    """

    path: Path
    metadata: EntryMetadata | None
    bytes: int
    shards: int
    used: str

    @property
    def key(self) -> str:
        """The key that users see."""
        return self.path.name[:KEY_CHARACTERS]

    @property
    def of_shards(self) -> int | None:
        """Number of shards of the complete entry; None if the metadata is damaged."""
        return None if self.metadata is None else len(self.metadata.layout.shards)

    @property
    def complete(self) -> bool:
        """Whether all shards exist."""
        return self.shards == self.of_shards

    def to_json(self) -> dict[str, Any]:
        """An entry of `kd.cache/1`; unknown values are null."""
        metadata, layout = self.metadata, None if self.metadata is None else self.metadata.layout
        return {
            "key": self.key,
            "described": None if metadata is None else metadata.described,
            "views": None if layout is None else layout.views,
            "examples": None if layout is None else layout.examples,
            "precision": None if metadata is None else _find_precision(metadata),
            "bytes": self.bytes,
            "shards": self.shards,
            "of_shards": self.of_shards,
            "complete": self.complete,
            "used": self.used,
        }


def list_entries(folder: Path) -> list[ListedEntry]:
    """List the entries of a cache, most recently used first."""
    return sorted(
        (_inspect_entry(path) for path in list_entry_folders(folder) if (path / METADATA_FILE).is_file()),
        key=lambda entry: (entry.used, entry.key),
        reverse=True,
    )


def find_entry(key: str, entries: Sequence[ListedEntry]) -> ListedEntry:
    """Find the entry whose key starts with a text.

    Raises:
        UsageError: there is no such entry, or more than one.
    """
    # A complete fingerprint is longer than the name of a folder.
    found = [e for e in entries if key and e.path.name.startswith(key.lower()[: len(e.path.name)])]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(entry.key for entry in found)
        raise UsageError(f"{key!r} matches {len(found)} keys: {names}", hint="give more characters of the key")
    guess = did_you_mean(key, [entry.key for entry in entries]).strip()
    raise UsageError(f"no cache entry has the key {key!r}{'; ' + guess if guess else ''}", hint="kd cache ls")


def delete_entries(entries: Iterable[ListedEntry]) -> int:
    """Remove entries and return the number of bytes freed; if one of them is in use, none is removed.

    Raises:
        LockedError: another process is filling one of them.
        StorageError: a file cannot be removed.
    """
    with add_write_hints(), ExitStack() as stack:
        paths = []
        for entry in entries:
            stack.callback(acquire_entry_lock(entry.path).release)
            paths.append(entry.path)
        return sum(_remove_entry(path) for path in paths)


def _inspect_entry(path: Path) -> ListedEntry:
    files = {}
    # Another process may be removing the files.
    with suppress(OSError):
        for file in path.iterdir():
            with suppress(OSError):
                files[file.name] = file.stat()
    shards = sum(1 for name in files if is_shard_name(name))
    times = [files[USED_FILE].st_mtime] if USED_FILE in files else [found.st_mtime for found in files.values()]
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(times, default=0)))
    return ListedEntry(
        path=path,
        metadata=read_metadata(path),
        bytes=sum(found.st_size for found in files.values()),
        shards=shards,
        used=used,
    )


def _remove_entry(path: Path) -> int:
    # Shards first, then the metadata, so that an interrupted removal leaves a listed entry; the lock last.
    order = [name for name in sorted(file.name for file in path.iterdir()) if _is_ours(name)]
    order.sort(key=lambda name: (name == ENTRY_LOCK_FILE, name == METADATA_FILE))
    freed = 0
    for name in order:
        freed += (path / name).lstat().st_size
        writer.remove(path / name)
    with suppress(OSError):
        # Not empty: it contains files that kd did not write.
        path.rmdir()
    return freed


def _is_ours(name: str) -> bool:
    is_known = name in (METADATA_FILE, HOLDER_FILE, USED_FILE, ENTRY_LOCK_FILE, CREATING_LOCK_FILE)
    return is_known or is_shard_name(name) or name.startswith(writer.TEMPORARY_PREFIX)


def _find_precision(metadata: EntryMetadata) -> str | None:
    found = metadata.components.get("teacher.precision", metadata.components.get("precision"))
    return None if found is None else str(found)
