"""What lies in the cache, and taking it away. What kd did not write is never touched."""

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
    """An entry as it lies there; its answers are counted, not read.

    Args:
        path: the folder.
        about: what it says about itself; None when that is damaged.
        bytes: of all its files.
        shards: that are there.
        used: when it was read last, else made or filled; date and time, UTC.
    """

    path: Path
    about: EntryMetadata | None
    bytes: int
    shards: int
    used: str

    @property
    def key(self) -> str:
        """What people call it by."""
        return self.path.name[:KEY_CHARACTERS]

    @property
    def of_shards(self) -> int | None:
        """How many shards it has when it is complete."""
        return None if self.about is None else len(self.about.layout.shards)

    @property
    def complete(self) -> bool:
        """Whether every shard is there."""
        return self.shards == self.of_shards

    def to_json(self) -> dict[str, Any]:
        """An entry of `kd.cache/1`; what it does not say is null."""
        about, layout = self.about, None if self.about is None else self.about.layout
        return {
            "key": self.key,
            "described": None if about is None else about.described,
            "views": None if layout is None else layout.views,
            "examples": None if layout is None else layout.examples,
            "precision": None if about is None else _precision(about),
            "bytes": self.bytes,
            "shards": self.shards,
            "of_shards": self.of_shards,
            "complete": self.complete,
            "used": self.used,
        }


def list_entries(folder: Path) -> list[ListedEntry]:
    """The entries of a cache, the last used first."""
    return sorted(
        (_look(path) for path in list_entry_folders(folder) if (path / METADATA_FILE).is_file()),
        key=lambda entry: (entry.used, entry.key),
        reverse=True,
    )


def find_entry(key: str, entries: Sequence[ListedEntry]) -> ListedEntry:
    """The entry whose key begins so.

    Raises:
        UsageError: there is none, or more than one.
    """
    # A whole fingerprint is longer than the name of a folder.
    found = [e for e in entries if key and e.path.name.startswith(key.lower()[: len(e.path.name)])]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(entry.key for entry in found)
        raise UsageError(f"{key!r} is the beginning of {len(found)} keys: {names}", hint="give more of it")
    guess = did_you_mean(key, [entry.key for entry in entries]).strip()
    raise UsageError(f"no kept answers are called {key!r}{'; ' + guess if guess else ''}", hint="kd cache ls")


def delete_entries(entries: Iterable[ListedEntry]) -> int:
    """Remove entries; gives the bytes that came free. Nothing is removed when one of them is in use.

    Raises:
        LockedError: a process fills one of them.
        StorageError: it cannot be removed.
    """
    with add_write_hints(), ExitStack() as stack:
        held = []
        for entry in entries:
            stack.callback(acquire_entry_lock(entry.path).release)
            held.append(entry.path)
        return sum(_remove(path) for path in held)


def _look(path: Path) -> ListedEntry:
    files = {}
    # Another process may be removing them.
    with suppress(OSError):
        for file in path.iterdir():
            with suppress(OSError):
                files[file.name] = file.stat()
    shards = sum(1 for name in files if is_shard_name(name))
    times = [files[USED_FILE].st_mtime] if USED_FILE in files else [found.st_mtime for found in files.values()]
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(times, default=0)))
    return ListedEntry(path, read_metadata(path), sum(found.st_size for found in files.values()), shards, used)


def _remove(path: Path) -> int:
    # `about.json` after the answers: what is left of an interrupted removal is still listed. The lock goes last.
    order = [name for name in sorted(file.name for file in path.iterdir()) if _is_ours(name)]
    order.sort(key=lambda name: (name == ENTRY_LOCK_FILE, name == METADATA_FILE))
    freed = 0
    for name in order:
        freed += (path / name).lstat().st_size
        writer.remove(path / name)
    with suppress(OSError):
        # Not empty: something in it is not ours.
        path.rmdir()
    return freed


def _is_ours(name: str) -> bool:
    known = name in (METADATA_FILE, HOLDER_FILE, USED_FILE, ENTRY_LOCK_FILE, CREATING_LOCK_FILE)
    return known or is_shard_name(name) or name.startswith(writer.TEMPORARY_PREFIX)


def _precision(about: EntryMetadata) -> str | None:
    found = about.components.get("teacher.precision", about.components.get("precision"))
    return None if found is None else str(found)
