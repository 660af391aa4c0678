"""Arrays in memory or in a file without a name."""

from __future__ import annotations

import errno
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from kdcli.data.store import new_array
from kdcli.errors import StorageError


def test_small_arrays_lie_in_memory():
    made = new_array((3, 4), "uint8", resident_bytes=12)
    assert (made.shape, made.dtype, isinstance(made, np.memmap)) == ((3, 4), np.uint8, False)


def test_large_arrays_keep_what_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = new_array((50, 40), "float32", resident_bytes=7999)
    assert isinstance(made, np.memmap)
    made[:] = np.arange(2000).reshape(50, 40)
    assert made.sum() == 1999000
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_said_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(StorageError) as caught:
        new_array((100,), "uint8", resident_bytes=10)
    assert str(tmp_path) in caught.value.message
    assert caught.value.exit_code == 5


def test_a_disk_that_fills_up_meanwhile(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError):
        new_array((100,), "uint8", resident_bytes=10)
    assert list(tmp_path.iterdir()) == []
