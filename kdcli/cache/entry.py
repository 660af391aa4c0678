"""A cache entry: the outputs of one teacher for one split, filled shard by shard, and verified once."""

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

# The modification time of the first is the time of the last use; the second is locked while an entry is created.
USED_FILE, CREATING_LOCK_FILE = "used", ".creating.lock"
_SCHEMA = "kd.answers/1"
# Creating an entry takes milliseconds.
_CREATING_TIMEOUT_SECONDS = 60.0


class Entry:
    """A folder of teacher outputs.

    Args:
        path: the folder.
        metadata: its metadata.
    """

    def __init__(self, path: Path, metadata: EntryMetadata) -> None:
        self.path = path
        self.metadata = metadata
        self._damage: dict[Shard, str] = {}
        self._valid: set[Shard] = set()

    @property
    def layout(self) -> Layout:
        """Layout of the outputs."""
        return self.metadata.layout

    @property
    def choices(self) -> dict[str, Any]:
        """Measurements behind the choice of precision and dtypes."""
        return self.metadata.choices

    @property
    def fingerprint(self) -> str:
        """The sha256 of the components that determine the outputs."""
        return self.metadata.fingerprint

    @property
    def damaged(self) -> list[str]:
        """Descriptions of the damaged shards, whose outputs must be computed again."""
        return list(self._damage.values())

    @property
    def bytes(self) -> int:
        """Bytes of the outputs that exist; they are not verified."""
        existing = [shard for shard in self.layout.shards if (self.path / shard.file_name).is_file()]
        return sum(shard.stop - shard.start for shard in existing) * self.layout.bytes_per_example

    @classmethod
    def find(cls, folder: Path, components: Mapping[str, Any]) -> Entry | None:
        """Find the entry with exactly these components, complete or not; nothing is written.

        Args:
            folder: folder of the cache.
            components: text or numbers by name.
        """
        path = locate_entry(folder, components)
        metadata = read_metadata(path)
        matches = metadata is not None and metadata.components == dict(components)
        return cls(path, metadata) if metadata is not None and matches else None

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
        """Create an entry, or open the one that another process has just created, with its layout and choices.

        Args:
            folder: folder of the cache.
            components: text or numbers that determine the outputs, by name.
            layout: layout of the outputs.
            described: teacher, data and split, for messages.
            choices: measurements behind the choice of precision and dtypes.

        Raises:
            StorageError: the entry cannot be written.
        """
        path = locate_entry(folder, components)
        metadata: dict[str, Any] = {"layout": layout, "described": described, "choices": choices}
        with add_write_hints():
            writer.make_folder(path)
            try:
                with FileLock(path / CREATING_LOCK_FILE, timeout=_CREATING_TIMEOUT_SECONDS):
                    return cls.find(folder, components) or cls(path, write_metadata(path, components, **metadata))
            except OSError as error:
                raise writer.storage_error(path, error) from error

    @contextmanager
    def lock(self, *, on_wait: Callable[[str], None], stop: Callable[[], int | None]) -> Iterator[None]:
        """Lock the entry to fill it, waiting while another process does.

        Args:
            on_wait: called once with a message that names the other process.
            stop: returns the exit code with which to stop waiting, or None.

        Raises:
            Interrupted: `stop` returned an exit code.
            StorageError: the folder cannot be written.
        """
        with hold_entry(self.path, on_wait=on_wait, stop=stop):
            with add_write_hints():
                self._restore_metadata()
            yield

    def missing(self) -> tuple[Shard, ...]:
        """Find the shards whose outputs are still missing. Each existing shard is read and verified once.

        Damaged and foreign shards are listed in `damaged`, and replaced when they are written again.
        """
        return tuple(shard for shard in self.layout.shards if not self._is_valid(shard))

    def write(self, shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the outputs of a shard atomically.

        Args:
            shard: a shard of the layout.
            arrays: (examples of the shard, ...) by name, in the dtypes of the layout.

        Raises:
            ValueError: the arrays or the shard do not match the layout.
            StorageError: the shard cannot be written.
        """
        expected, actual = self._expected_arrays(shard), {name: (a.dtype, a.shape) for name, a in arrays.items()}
        if actual != expected or shard != self.layout.shard_at(shard.view, shard.number):
            raise ValueError(f"{shard}: does not match the layout (got {actual}; expected {expected})")
        with add_write_hints():
            self._restore_metadata()
            content = pack(PackedData(self._make_document(shard), dict(arrays)))
            writer.write_bytes(self.path / shard.file_name, content)
        self._valid.add(shard)

    def open_reader(self, *, touch: bool = True) -> EntryReader:
        """Memory-map all outputs; they stay readable if the entry is removed afterwards.

        Args:
            touch: whether to record the time of use and to remove the leftovers of killed processes.

        Raises:
            StorageError: outputs are missing.
        """
        missing = list(self.missing())
        mapped: dict[Shard, MappedFile] = {}
        raise_file_limit(len(self.layout.shards))
        for shard in () if missing else self.layout.shards:
            path = self.path / shard.file_name
            try:
                mapped[shard] = map_file(path)
            except FileNotFoundError:
                missing.append(shard)
            except OSError as error:
                raise writer.storage_error(path, error) from error
        if missing:
            raise StorageError(
                f"{self.path}: {len(missing)} of {len(self.layout.shards)} shards of cached outputs are missing",
                hint="run the same command again to compute them",
                location=str(self.path),
            )
        if touch:
            with suppress(OSError):
                (self.path / USED_FILE).touch()
            remove_leftovers(self.path)
        return EntryReader(self.layout, mapped)

    def _is_valid(self, shard: Shard) -> bool:
        path = self.path / shard.file_name
        if shard in self._valid and path.exists():
            return True
        try:
            damage = self._find_damage(shard, path)
        except FileNotFoundError:
            return False
        except StorageError as error:
            damage = error.message
        except OSError as error:
            damage = writer.storage_error(path, error).message
        if damage is None:
            self._valid.add(shard)
            return True
        self._damage[shard] = damage
        return False

    def _find_damage(self, shard: Shard, path: Path) -> str | None:
        verify_file(path)
        header = read_packed_header(path)
        if header.document.get("fingerprint") != self.fingerprint:
            return f"{path}: contains outputs of another teacher or for other examples"
        arrays = {place.name: (place.dtype, place.shape) for place in header.places}
        if header.document != self._make_document(shard) or arrays != self._expected_arrays(shard):
            return f"{path}: contains the outputs of another shard"
        return None

    def _make_document(self, shard: Shard) -> dict[str, Any]:
        position = {"view": shard.view, "number": shard.number, "start": shard.start, "stop": shard.stop}
        return {"schema": _SCHEMA, "fingerprint": self.fingerprint, **position}

    def _expected_arrays(self, shard: Shard) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        count = shard.stop - shard.start
        return {spec.name: (parse_dtype(spec.dtype), (count, *spec.shape)) for spec in self.layout.arrays}

    def _restore_metadata(self) -> None:
        """Create the entry again if it was removed while this process waited for it or filled it."""
        if not (self.path / METADATA_FILE).exists():
            writer.make_folder(self.path)
            self.metadata.write(self.path)
