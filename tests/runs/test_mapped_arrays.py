"""Memory-mapped arrays: found behind views, read in parts, their pages released."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import psutil
import pytest

from kdcli.runs import mapped_arrays
from kdcli.runs.mapped_arrays import find_mapping, iterate_parts, read_rows, release_array
from kdcli.runs.run_environment import hash_arrays

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="resident pages are counted on Linux")
MB = 1_000_000


def mapped(path, rows=40_000, mode="r"):
    """A file of 41 MB and its array."""
    content = np.arange(rows, dtype=np.uint32)[:, None] + np.arange(256, dtype=np.uint32)
    content.tofile(path)
    return content, np.memmap(path, np.uint32, mode, shape=content.shape)


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_the_mapping_is_found_behind_every_kind_of_view(tmp_path):
    _, array = mapped(tmp_path / "a", 100)
    views = [array, array[3:9], np.asarray(array)[::2], array.T, array.reshape(-1).view(np.uint8)[5:]]
    views.append(np.frombuffer(memoryview(array).cast("B"), np.uint8))
    assert all(find_mapping(view) is array.base for view in views)
    assert isinstance(find_mapping(array), mmap.mmap)


@pytest.mark.parametrize("mode", ["memory", "copy", "private"])
def test_arrays_in_memory_have_no_mapping(tmp_path, mode):
    content, array = mapped(tmp_path / "a", 100, "c" if mode == "private" else "r")
    given = {"memory": content, "copy": array + 0, "private": array}[mode]
    assert find_mapping(given) is None
    if mode == "private":
        array[5] = 7
        release_array(array)
        assert (array[5] == 7).all()


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_released_pages_keep_their_content(tmp_path, mode):
    content, array = mapped(tmp_path / "a", 1000, mode)
    if mode == "r+":
        array[17] = content[17] = 5
    release_array(array[4:])
    np.testing.assert_array_equal(array, content)


@LINUX
def test_reading_a_large_array_in_parts_keeps_little_of_it_resident(tmp_path):
    content, array = mapped(tmp_path / "a")
    before, most, total = resident(), 0, 0
    for start, part in iterate_parts(array, part_bytes=MB):
        assert part[0, 0] == start
        total += int(part.sum(dtype=np.int64))
        most = max(most, resident())
    assert total == int(content.sum(dtype=np.int64))
    assert most - before < 20 * MB
    assert int(array.sum(dtype=np.int64)) == total
    assert resident() - before > 30 * MB


@LINUX
def test_reading_single_rows_keeps_little_of_the_array_resident(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_arrays, "MAX_RESIDENT_BYTES", 8 * MB)
    content, array = mapped(tmp_path / "a")
    order = np.random.default_rng(0).permutation(len(array)).reshape(-1, 50)
    before, most = resident(), 0
    for rows in order:
        np.testing.assert_array_equal(read_rows(array, rows), content[rows])
        most = max(most, resident())
    assert most - before < 20 * MB


@pytest.mark.parametrize("rows", [np.array([], int), np.array([99, 0, 0, 3]), np.arange(100)])
def test_rows_are_read_in_any_order(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(mapped_arrays, "MAX_RESIDENT_BYTES", 3 * mapped_arrays.READAHEAD_BYTES)
    content, array = mapped(tmp_path / "a", 100)
    read = read_rows(array, rows)
    np.testing.assert_array_equal(read, content[rows])
    assert type(read) is np.ndarray and find_mapping(read) is None


def test_the_hash_covers_bytes_dtype_and_shape(tmp_path):
    import hashlib

    content, array = mapped(tmp_path / "a", 20_000)
    others = [np.float64(3.5), np.zeros((0, 3), np.int8), content.T, content[::3], np.array([True, False])]
    unaligned = np.frombuffer(b"x" + content.tobytes(), np.uint8)[1:].view(np.uint32).reshape(content.shape)
    for given, same in [*((np.asarray(other), other) for other in others), (array, content), (unaligned, content)]:
        plain = np.asarray(same)
        expected = hashlib.sha256(f"{plain.dtype}{plain.shape}".encode() + plain.tobytes()).hexdigest()
        assert hash_arrays([given]) == expected
    assert hash_arrays([content[:5], content[5:]]) != hash_arrays([content])
