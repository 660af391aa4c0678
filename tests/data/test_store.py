"""Arrays in memory or in a file without a name."""

from __future__ import annotations

import errno
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from kdcli.data.store import BytesWriter, create_array
from kdcli.errors import StorageError


def test_small_arrays_lie_in_memory():
    made = create_array((3, 4), "uint8", resident_bytes=12)
    assert (made.shape, made.dtype, isinstance(made, np.memmap)) == ((3, 4), np.uint8, False)


def test_large_arrays_keep_what_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = create_array((50, 40), "float32", resident_bytes=7999)
    assert isinstance(made, np.memmap)
    made[:] = np.arange(2000).reshape(50, 40)
    assert made.sum() == 1999000
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_said_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(StorageError) as caught:
        create_array((100,), "uint8", resident_bytes=10)
    assert str(tmp_path) in caught.value.message
    assert caught.value.exit_code == 5


def test_a_disk_that_fills_up_meanwhile(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError):
        create_array((100,), "uint8", resident_bytes=10)
    assert list(tmp_path.iterdir()) == []


CONTENTS = [bytes([number]) * (7 * number % 40) for number in range(30)]


@pytest.mark.parametrize("memory_bytes", [0, 100, 10**6])
def test_byte_strings_come_back_by_number(monkeypatch, tmp_path, memory_bytes):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with BytesWriter(memory_bytes=memory_bytes) as storing:
        for content in CONTENTS:
            storing.append(content)
        stored = storing.finish()
    assert list(tmp_path.iterdir()) == []
    assert isinstance(stored.content, np.memmap) == (memory_bytes < 10**6)
    rows = np.array([29, 0, 7, 7, 13])
    assert stored.at(rows) == [CONTENTS[row] for row in rows]
    part = stored.part(slice(5, 12))
    assert (len(stored), len(part)) == (30, 7)
    assert part.at(np.arange(7)) == CONTENTS[5:12]
    assert b"".join(piece.tobytes() for piece in list(part.pieces())[1:]) == b"".join(CONTENTS[5:12])


def test_nothing_is_stored_too():
    with BytesWriter() as storing:
        stored = storing.finish()
    assert (len(stored), stored.at(np.array([], int))) == (0, [])


@pytest.mark.parametrize("size", [10, 100_000], ids=["when it is done", "at once"])
def test_a_disk_that_fills_up_while_bytes_are_stored(monkeypatch, size):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b"))
    with pytest.raises(StorageError, match="disk full") as caught, BytesWriter(memory_bytes=5) as storing:
        storing.append(bytes(size))
        storing.finish()
    assert caught.value.exit_code == 5
