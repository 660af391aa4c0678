"""Packed files: read as a whole, by header or memory-mapped; damage is always detected."""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from kdcli.errors import StorageError
from kdcli.runs.packed_file import PackedData, map_file, pack, parse_dtype, read_packed_header, unpack, verify_file

HERE = Path("some.answers")


def sample() -> PackedData:
    random = np.random.default_rng(0)
    arrays = {
        "flags": np.asarray([True, False, True]),
        "half": random.normal(size=(5, 3)).astype(np.float16),
        "brain": random.normal(size=(7, 2)).astype(ml_dtypes.bfloat16),
        "whole": random.normal(size=(4, 6)),
        "scalar": np.asarray(3, np.int64),
        "none": np.empty((0, 4), np.float32),
        "turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    }
    return PackedData({"name": "grün", "nothing": None}, arrays)


def assert_same(found, expected: PackedData) -> None:
    assert found.document == expected.document
    assert list(found.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape), name
        assert found.arrays[name].tobytes() == array.tobytes(), name


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "some.answers"
    path.write_bytes(pack(sample()))
    return path


def test_unpacked_arrays_are_identical_and_read_only():
    found = unpack(pack(sample()), HERE)
    assert_same(found, sample())
    assert not any(array.flags.writeable for array in found.arrays.values())


def test_the_same_content_packs_to_the_same_bytes():
    assert pack(sample()) == pack(sample())


def test_arrays_are_aligned(path):
    header = read_packed_header(path)
    assert [place.name for place in header.places] == list(sample().arrays)
    assert min(place.offset for place in header.places) % 64 == 0
    assert all(place.offset % place.dtype.itemsize == 0 for place in header.places)
    assert all(array.flags.aligned for array in map_file(path).arrays.values())


def test_the_header_describes_document_and_arrays(path):
    header = read_packed_header(path)
    assert header.document == sample().document
    assert header.bytes == path.stat().st_size
    told = {place.name: (place.dtype, place.shape, place.bytes) for place in header.places}
    assert told == {name: (a.dtype, a.shape, a.nbytes) for name, a in sample().arrays.items()}


def test_mapped_arrays_survive_deletion_of_the_file_and_release_of_pages(path):
    mapped = map_file(path)
    path.unlink()
    assert isinstance(mapped.mapping, mmap.mmap)
    assert_same(mapped, sample())
    mapped.drop_pages()
    assert_same(mapped, sample())
    assert not any(array.flags.writeable for array in mapped.arrays.values())


def test_a_file_of_the_first_format_is_still_read(tmp_path):
    # Arrays follow one another right after the header, without offsets.
    arrays = {"flag": np.asarray([True]), "weights": np.arange(6, dtype=np.float32).reshape(2, 3)}
    layout = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({"document": {"step": 3}, "arrays": layout}).encode()
    content = b"KDCKPT1\n" + struct.pack("<Q", len(header)) + header
    content += b"".join(array.tobytes() for array in arrays.values())
    content += hashlib.sha256(content).digest()
    assert_same(unpack(content, HERE), PackedData({"step": 3}, arrays))
    (tmp_path / "old").write_bytes(content)
    assert_same(map_file(tmp_path / "old"), PackedData({"step": 3}, arrays))


def every_reading(path):
    """Read a file in every way that does not require its arrays."""
    verify_file(path)
    read_packed_header(path)
    map_file(path)


def test_an_intact_file_passes_every_check(path):
    every_reading(path)


def test_every_truncation_is_detected(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        for reading in (verify_file, read_packed_header, map_file):
            with pytest.raises(StorageError, match=r"some\.answers: the file is damaged"):
                reading(path)


def test_every_flipped_bit_is_detected(path):
    content = bytearray(path.read_bytes())
    for at in range(len(content)):
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"some\.answers"):
            verify_file(path)
        with pytest.raises(StorageError, match=r"some\.answers"):
            unpack(bytes(content), path)
        # Without verification the content may be wrong, but no other error may be raised.
        for reading in (read_packed_header, map_file):
            try:
                reading(path)
            except StorageError:
                pass
        content[at] ^= 1 << at % 8


@pytest.mark.parametrize("header", ["[]", "{}", '{"document": {}}', "[" * 5000, '{"document": 1, "arrays": []}'])
@pytest.mark.parametrize("reading", [read_packed_header, map_file])
def test_an_invalid_header_is_detected(tmp_path, header, reading):
    content = b"KDCKPT1\n" + struct.pack("<Q", len(header)) + header.encode()
    (tmp_path / "a").write_bytes(content + hashlib.sha256(content).digest())
    verify_file(tmp_path / "a")
    with pytest.raises(StorageError, match="damaged"):
        reading(tmp_path / "a")


@pytest.mark.parametrize(
    "entry",
    [
        ["a", "float32", [2], -4],
        ["a", "float32", [-2], 0],
        ["a", "float32", [3], 0],
        ["a", "float32", [1], 0],
        ["a", "object", [1], 0],
        ["a", "floaty", [2], 0],
        ["a", "float32", [10**30], 0],
        ["a", "float32", ["x"], 0],
        ["a"],
    ],
    ids=str,
)
def test_an_array_outside_the_file_is_detected(tmp_path, entry):
    header = json.dumps({"document": {}, "arrays": [entry]}).encode()
    content = b"KDCKPT1\n" + struct.pack("<Q", len(header)) + header + bytes(8)
    (tmp_path / "a").write_bytes(content + hashlib.sha256(content).digest())
    for reading in (read_packed_header, map_file, lambda path: unpack(path.read_bytes(), path)):
        with pytest.raises(StorageError, match="damaged"):
            reading(tmp_path / "a")


def test_dtypes_are_parsed_by_name():
    assert parse_dtype("bfloat16") == ml_dtypes.bfloat16
    assert parse_dtype("float16") == np.float16
    with pytest.raises(TypeError):
        parse_dtype("float17")


def test_ml_dtypes_is_imported_only_if_needed():
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from kdcli.runs.packed_file import PackedData, pack, unpack\n"
        "unpack(pack(PackedData({}, {'a': np.zeros(3, np.float32)})), Path('a'))\n"
        "assert not {'ml_dtypes', 'tensorflow', 'pydantic'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_damage_anywhere_in_a_large_file_is_detected(tmp_path):
    array = np.random.default_rng(0).normal(size=500_000)
    (tmp_path / "a").write_bytes(pack(PackedData({}, {"a": array})))
    verify_file(tmp_path / "a")
    content = bytearray((tmp_path / "a").read_bytes())
    for start in range(0, len(content), 4096 * 61):
        page = content[start : start + 4096]
        (tmp_path / "a").write_bytes(content[:start] + bytes(len(page)) + content[start + 4096 :])
        with pytest.raises(StorageError, match="damaged"):
            verify_file(tmp_path / "a")
