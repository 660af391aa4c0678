"""The answers of one teacher to one split: found by what they follow from, filled shard by shard, checked once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from kdcli.cache.folder import add_write_hints
from kdcli.cache.layout import Layout, Shard
from kdcli.cache.locks import hold_entry, remove_leftovers
from kdcli.cache.metadata import METADATA_FILE, EntryMetadata, locate_entry, read_metadata, write_metadata
from kdcli.cache.reader import EntryReader, raise_file_limit
from kdcli.errors import StorageError
from kdcli.runs import writer
from kdcli.runs.packed_file import (
    MappedFile,
    PackedData,
    map_file,
    pack,
    parse_dtype,
    read_packed_header,
    verify_file,
)

# Its time is that of the last use; while an entry is made, others wait at the second.
USED_FILE, CREATING_LOCK_FILE = "used", ".creating.lock"
_SCHEMA = "kd.answers/1"
# Making one takes milliseconds.
_CREATING_SECONDS = 60.0


class Entry:
    """A folder of answers.

    Args:
        path: the folder.
        about: what it says about itself.
    """

    def __init__(self, path: Path, about: EntryMetadata) -> None:
        self.path = path
        self.about = about
        self._wrong: dict[Shard, str] = {}
        self._valid: set[Shard] = set()

    @property
    def layout(self) -> Layout:
        """How the answers lie."""
        return self.about.layout

    @property
    def choices(self) -> dict[str, Any]:
        """What was measured when the layout was chosen."""
        return self.about.choices

    @property
    def fingerprint(self) -> str:
        """The sha256 of what the answers follow from."""
        return self.about.fingerprint

    @property
    def damaged(self) -> list[str]:
        """What is wrong with shards that have to be answered again, in words."""
        return list(self._wrong.values())

    @property
    def bytes(self) -> int:
        """Of the answers that are there, unchecked."""
        there = [shard for shard in self.layout.shards if (self.path / shard.file_name).is_file()]
        return sum(shard.stop - shard.start for shard in there) * self.layout.bytes_per_example

    @classmethod
    def find(cls, folder: Path, components: Mapping[str, Any]) -> Entry | None:
        """The entry whose answers follow from exactly these components, complete or not; nothing is written.

        Args:
            folder: of the cache.
            components: names with text or numbers.
        """
        path = locate_entry(folder, components)
        about = read_metadata(path)
        return cls(path, about) if about is not None and about.components == dict(components) else None

    @classmethod
    def create(
        cls,
        folder: Path,
        components: Mapping[str, Any],
        *,
        layout: Layout,
        described: Mapping[str, Any],
        choices: Mapping[str, Any],
    ) -> Entry:
        """Make an entry, or open the one that another process has made meanwhile: its layout and choices hold.

        Args:
            folder: of the cache.
            components: names with text or numbers, what the answers follow from.
            layout: how the answers are to lie.
            described: teacher, data and split, for people.
            choices: what was measured when the layout was chosen.

        Raises:
            StorageError: it cannot be written.
        """
        path = locate_entry(folder, components)
        said: dict[str, Any] = {"layout": layout, "described": described, "choices": choices}
        with add_write_hints():
            writer.make_folder(path)
            try:
                with FileLock(path / CREATING_LOCK_FILE, timeout=_CREATING_SECONDS):
                    return cls.find(folder, components) or cls(path, write_metadata(path, components, **said))
            except OSError as error:
                raise writer.storage_error(path, error) from error

    @contextmanager
    def lock(self, *, on_wait: Callable[[str], None], stop: Callable[[], int | None]) -> Iterator[None]:
        """Fill the entry alone, when no other process does.

        Args:
            on_wait: told once which process is waited for.
            stop: gives the exit code to stop waiting with, or None.

        Raises:
            Interrupted: `stop` said so.
            StorageError: the folder cannot be written.
        """
        with hold_entry(self.path, on_wait=on_wait, stop=stop):
            with add_write_hints():
                self._keep_about()
            yield

    def missing(self) -> tuple[Shard, ...]:
        """The shards that are still to be answered. Each one that is there is read and checked, once.

        What is damaged, or does not belong there, is told in `damaged`, and replaced when it is written anew.
        """
        return tuple(shard for shard in self.layout.shards if not self._has(shard))

    def write(self, shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the answers of a shard; it appears whole or not at all.

        Args:
            shard: of the layout.
            arrays: (examples of the shard, ...) by name, in the types of the layout.

        Raises:
            ValueError: they are not what the layout says.
            StorageError: they cannot be written.
        """
        wanted, given = self._arrays_of(shard), {name: (a.dtype, a.shape) for name, a in arrays.items()}
        if given != wanted or shard != self.layout.shard_at(shard.view, shard.number):
            raise ValueError(f"{shard}: the layout is {wanted}, got {given}")
        with add_write_hints():
            self._keep_about()
            content = pack(PackedData(self._document_of(shard), dict(arrays)))
            writer.write_bytes(self.path / shard.file_name, content)
        self._valid.add(shard)

    def open_reader(self, *, touch: bool = True) -> EntryReader:
        """All answers, mapped: they stay readable when the entry is removed afterwards.

        Args:
            touch: whether to note the use, and to sweep up what killed processes left.

        Raises:
            StorageError: some are missing.
        """
        absent = list(self.missing())
        mapped: dict[Shard, MappedFile] = {}
        raise_file_limit(len(self.layout.shards))
        for shard in () if absent else self.layout.shards:
            path = self.path / shard.file_name
            try:
                mapped[shard] = map_file(path)
            except FileNotFoundError:
                absent.append(shard)
            except OSError as error:
                raise writer.storage_error(path, error) from error
        if absent:
            raise StorageError(
                f"{self.path}: {len(absent)} of {len(self.layout.shards)} shards of kept answers are missing",
                hint="run the same command again: they are answered anew",
                location=str(self.path),
            )
        if touch:
            with suppress(OSError):
                (self.path / USED_FILE).touch()
            remove_leftovers(self.path)
        return EntryReader(self.layout, mapped)

    def _has(self, shard: Shard) -> bool:
        path = self.path / shard.file_name
        if shard in self._valid and path.exists():
            return True
        try:
            wrong = self._wrong_with(shard, path)
        except FileNotFoundError:
            return False
        except StorageError as error:
            wrong = error.message
        except OSError as error:
            wrong = writer.storage_error(path, error).message
        if wrong is None:
            self._valid.add(shard)
            return True
        self._wrong[shard] = wrong
        return False

    def _wrong_with(self, shard: Shard, path: Path) -> str | None:
        verify_file(path)
        header = read_packed_header(path)
        if header.document.get("fingerprint") != self.fingerprint:
            return f"{path}: holds answers of another teacher or to other examples"
        arrays = {place.name: (place.dtype, place.shape) for place in header.places}
        if header.document != self._document_of(shard) or arrays != self._arrays_of(shard):
            return f"{path}: holds the answers of another shard"
        return None

    def _document_of(self, shard: Shard) -> dict[str, Any]:
        place = {"view": shard.view, "number": shard.number, "start": shard.start, "stop": shard.stop}
        return {"schema": _SCHEMA, "fingerprint": self.fingerprint, **place}

    def _arrays_of(self, shard: Shard) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        count = shard.stop - shard.start
        return {spec.name: (parse_dtype(spec.dtype), (count, *spec.shape)) for spec in self.layout.arrays}

    def _keep_about(self) -> None:
        """An entry that was removed while somebody waited for it, or fills it, is made again."""
        if not (self.path / METADATA_FILE).exists():
            writer.make_folder(self.path)
            self.about.write(self.path)
