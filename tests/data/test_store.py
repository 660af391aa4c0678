"""Arrays and byte strings in memory or in an unnamed file."""

from __future__ import annotations

import errno
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from kdcli.data.store import BytesWriter, create_array
from kdcli.errors import StorageError


def test_small_arrays_are_in_memory():
    made = create_array((3, 4), "uint8", resident_bytes=12)
    assert (made.shape, made.dtype, isinstance(made, np.memmap)) == ((3, 4), np.uint8, False)


def test_large_arrays_are_mapped_and_writable(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = create_array((50, 40), "float32", resident_bytes=7999)
    assert isinstance(made, np.memmap)
    made[:] = np.arange(2000).reshape(50, 40)
    assert made.sum() == 1999000
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_detected_before_writing(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(StorageError) as caught:
        create_array((100,), "uint8", resident_bytes=10)
    assert str(tmp_path) in caught.value.message
    assert caught.value.exit_code == 5


def test_disk_that_fills_up_meanwhile_raises_a_storage_error(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError):
        create_array((100,), "uint8", resident_bytes=10)
    assert list(tmp_path.iterdir()) == []


CONTENTS = [bytes([number]) * (7 * number % 40) for number in range(30)]


@pytest.mark.parametrize("memory_bytes", [0, 100, 10**6])
def test_byte_strings_are_read_by_number(monkeypatch, tmp_path, memory_bytes):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with BytesWriter(memory_bytes=memory_bytes) as writer:
        for content in CONTENTS:
            writer.append(content)
        stored = writer.finish()
    assert list(tmp_path.iterdir()) == []
    assert isinstance(stored.content, np.memmap) == (memory_bytes < 10**6)
    rows = np.array([29, 0, 7, 7, 13])
    assert stored.read(rows) == [CONTENTS[row] for row in rows]
    part = stored.select_range(slice(5, 12))
    assert (len(stored), len(part)) == (30, 7)
    assert part.read(np.arange(7)) == CONTENTS[5:12]
    assert b"".join(piece.tobytes() for piece in list(part.pieces())[1:]) == b"".join(CONTENTS[5:12])


def test_empty_store_is_allowed():
    with BytesWriter() as writer:
        stored = writer.finish()
    assert (len(stored), stored.read(np.array([], int))) == (0, [])


@pytest.mark.parametrize("size", [10, 100_000], ids=["at the end", "at once"])
def test_disk_that_fills_up_while_writing_bytes_raises_a_storage_error(monkeypatch, size):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b"))
    with pytest.raises(StorageError, match="disk full") as caught, BytesWriter(memory_bytes=5) as writer:
        writer.append(bytes(size))
        writer.finish()
    assert caught.value.exit_code == 5
