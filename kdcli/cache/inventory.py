"""What lies in the cache, and taking it away. What kd did not write is never touched."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.decisions import places_in
from kdcli.cache.entry import CREATING, USED
from kdcli.cache.folder import written_here
from kdcli.cache.layout import is_shard
from kdcli.cache.locks import HOLDER, LOCK, taken
from kdcli.cache.metadata import ABOUT, KEY, About, read_about
from kdcli.errors import UsageError, did_you_mean
from kdcli.runs import writer


@dataclass(frozen=True)
class Listed:
    """An entry as it lies there; its answers are counted, not read.

    Args:
        path: the folder.
        about: what it says about itself; None when that is damaged.
        bytes: of all its files.
        shards: that are there.
        used: when it was read last, else made or filled; date and time, UTC.
    """

    path: Path
    about: About | None
    bytes: int
    shards: int
    used: str

    @property
    def key(self) -> str:
        """What people call it by."""
        return self.path.name[:KEY]

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


def listed(folder: Path) -> list[Listed]:
    """The entries of a cache, the last used first."""
    return sorted(
        (_look(path) for path in places_in(folder) if (path / ABOUT).is_file()),
        key=lambda entry: (entry.used, entry.key),
        reverse=True,
    )


def entry_called(key: str, entries: Sequence[Listed]) -> Listed:
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


def remove(entries: Iterable[Listed]) -> int:
    """Remove entries; gives the bytes that came free. Nothing is removed when one of them is in use.

    Raises:
        LockedError: a process fills one of them.
        StorageError: it cannot be removed.
    """
    with written_here(), ExitStack() as stack:
        held = []
        for entry in entries:
            stack.callback(taken(entry.path).release)
            held.append(entry.path)
        return sum(_remove(path) for path in held)


def _look(path: Path) -> Listed:
    files = {}
    # Another process may be removing them.
    with suppress(OSError):
        for file in path.iterdir():
            with suppress(OSError):
                files[file.name] = file.stat()
    shards = sum(1 for name in files if is_shard(name))
    times = [files[USED].st_mtime] if USED in files else [found.st_mtime for found in files.values()]
    used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(times, default=0)))
    return Listed(path, read_about(path), sum(found.st_size for found in files.values()), shards, used)


def _remove(path: Path) -> int:
    # `about.json` after the answers: what is left of an interrupted removal is still listed. The lock goes last.
    order = [name for name in sorted(file.name for file in path.iterdir()) if _is_ours(name)]
    order.sort(key=lambda name: (name == LOCK, name == ABOUT))
    freed = 0
    for name in order:
        freed += (path / name).lstat().st_size
        writer.remove(path / name)
    with suppress(OSError):
        # Not empty: something in it is not ours.
        path.rmdir()
    return freed


def _is_ours(name: str) -> bool:
    known = name in (ABOUT, HOLDER, USED, LOCK, CREATING)
    return known or is_shard(name) or name.startswith(writer.TEMPORARY)


def _precision(about: About) -> str | None:
    found = about.components.get("teacher.precision", about.components.get("precision"))
    return None if found is None else str(found)
