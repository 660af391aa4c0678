"""The contents of the cache as `kd cache` lists, shows and removes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.decisions import remove_decisions
from kdcli.cache.exported_models import remove_exports
from kdcli.cache.folder import find_cache_folder
from kdcli.cache.inventory import ListedEntry, delete_entries, find_entry, list_entries
from kdcli.errors import StorageError
from kdcli.runs.results import relativize_path


@dataclass(frozen=True)
class CacheContents:
    """All entries of a cache, most recently used first."""

    folder: Path
    entries: tuple[ListedEntry, ...]

    @property
    def bytes(self) -> int:
        """Size of all entries in bytes."""
        return sum(entry.bytes for entry in self.entries)

    def to_json(self) -> dict[str, Any]:
        """`kd.cache/1`."""
        entries = [entry.to_json() for entry in self.entries]
        return {
            "schema": "kd.cache/1",
            "folder": relativize_path(self.folder),
            "bytes": self.bytes,
            "entries": entries,
        }


def list_cache() -> CacheContents:
    """List the entries of the cache; nothing is written.

    Raises:
        StorageError: the path of the cache is a file.
    """
    folder = find_cache_folder()
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder}: it is a file", hint="another KD_CACHE_DIR")
    return CacheContents(folder, tuple(list_entries(folder)))


def show_entry(key: str) -> dict[str, Any]:
    """Show an entry: the document `kd.cache-show/1`.

    Args:
        key: start of its key.

    Raises:
        UsageError: no entry has that key, or several do.
        StorageError: its metadata is damaged.
    """
    entry = find_entry(key, list_cache().entries)
    if entry.metadata is None:
        raise StorageError(f"{entry.path}: the metadata of the entry is damaged", hint=f"kd cache rm {key}")
    metadata = entry.metadata.to_json()
    names = ("fingerprint", "components", "layout", "choices", "versions", "created")
    document = {"schema": "kd.cache-show/1", "path": relativize_path(entry.path), **entry.to_json()}
    return document | {name: metadata.get(name) for name in names}


def remove_entries(keys: Sequence[str] = (), *, everything: bool = False) -> tuple[int, int]:
    """Remove entries; return their number and the number of bytes freed.

    Args:
        keys: starts of the keys of entries.
        everything: remove all entries, decisions and exported teachers.

    Raises:
        UsageError: no entry has one of the keys, or several do; nothing is removed.
        LockedError: another process is using one of the entries; nothing is removed.
        StorageError: a file cannot be removed.
    """
    cache = list_cache()
    chosen = {entry.path: entry for entry in cache.entries if everything}
    for key in keys:
        entry = find_entry(key, cache.entries)
        chosen[entry.path] = entry
    freed = delete_entries(chosen.values())
    if everything:
        freed += remove_decisions(cache.folder) + remove_exports(cache.folder)
    return len(chosen), freed
