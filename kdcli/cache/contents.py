"""kd cache: what lies in the cache of teachers' answers, and making room in it."""

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
    """All kept answers of a cache, the last used first."""

    folder: Path
    entries: tuple[ListedEntry, ...]

    @property
    def bytes(self) -> int:
        """Of all entries."""
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
    """What lies in the cache; nothing is written.

    Raises:
        StorageError: no cache can be there.
    """
    folder = find_cache_folder()
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder}: it is a file", hint="another KD_CACHE_DIR")
    return CacheContents(folder, tuple(list_entries(folder)))


def show_entry(key: str) -> dict[str, Any]:
    """Everything about one entry, `kd.cache-show/1`.

    Args:
        key: the beginning of its key.

    Raises:
        UsageError: no entry is called so, or several.
        StorageError: it is damaged.
    """
    entry = find_entry(key, list_cache().entries)
    if entry.metadata is None:
        raise StorageError(f"{entry.path}: what the entry says about itself is damaged", hint=f"kd cache rm {key}")
    said = entry.metadata.to_json()
    names = ("fingerprint", "components", "layout", "choices", "versions", "created")
    document = {"schema": "kd.cache-show/1", "path": relativize_path(entry.path), **entry.to_json()}
    return document | {name: said.get(name) for name in names}


def remove_entries(keys: Sequence[str] = (), *, everything: bool = False) -> tuple[int, int]:
    """Make room: gives how many entries were removed, and the bytes that came free.

    Args:
        keys: the beginnings of keys.
        everything: all entries, and the small decisions and exported teachers beside them.

    Raises:
        UsageError: a key that no entry has, or several; nothing is removed then.
        LockedError: a process works on one of them; nothing is removed then.
        StorageError: one cannot be removed.
    """
    kept = list_cache()
    chosen = {entry.path: entry for entry in kept.entries if everything}
    for key in keys:
        entry = find_entry(key, kept.entries)
        chosen[entry.path] = entry
    freed = delete_entries(chosen.values())
    if everything:
        freed += remove_decisions(kept.folder) + remove_exports(kept.folder)
    return len(chosen), freed
