"""Large arrays of a `.npz` file: mapped, or unpacked once."""

from __future__ import annotations

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from kdcli.data.npz import read_arrays
from kdcli.errors import DataError, StorageError
from kdcli.runs.mapped_arrays import find_mapping

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "x_train": RANDOM.integers(0, 256, (300, 5, 7, 3), dtype=np.uint8),
    "x_test.left": RANDOM.normal(size=(40, 90)).astype(np.float32),
    "x_test": np.asfortranarray(RANDOM.normal(size=(50, 60, 2))),
    "y_train": np.arange(300),
}


def save(path, *, packed=False, arrays=ARRAYS):
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_large_arrays_are_mapped_and_small_ones_are_read(tmp_path, monkeypatch, packed):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    found = read_arrays(save(tmp_path / "d.npz", packed=packed), in_memory_bytes=5000)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.c_contiguous
        assert (find_mapping(found[name]) is not None) == (array.nbytes > 5000), name
    assert list(scratch.iterdir()) == []


def test_uncompressed_array_is_mapped_from_the_file(tmp_path):
    path = save(tmp_path / "d.npz")
    array = read_arrays(path, in_memory_bytes=5000)["x_train"]
    assert array.filename == path
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["x_train"].tobytes())] ^= 1
    path.write_bytes(content)
    assert array[0, 0, 0, 0] == ARRAYS["x_train"][0, 0, 0, 0] ^ 1


def test_unaligned_arrays_in_the_archive_are_read(tmp_path):
    path = tmp_path / "d.npz"
    save(path)
    # An extra field and names of any length: no member is aligned.
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("weight_train.npy")
        info.extra = b"\x99\x99\x03\x00abc"
        with archive.open(info, "w") as file:
            np.lib.format.write_array(file, np.arange(3000.0))
    found = read_arrays(path, in_memory_bytes=5000)
    np.testing.assert_array_equal(found["weight_train"], np.arange(3000.0))
    np.testing.assert_array_equal(found["x_test.left"], ARRAYS["x_test.left"])


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        read_arrays(path, in_memory_bytes=5000, **options)
    assert caught.value.exit_code == 3
    return caught.value.message


@pytest.mark.parametrize("packed", [False, True])
def test_damage_in_a_large_array_is_detected(tmp_path, packed):
    path = save(tmp_path / "d.npz", packed=packed)
    content = bytearray(path.read_bytes())
    content[2000:2060] = bytes(60)
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}: not a readable .npz file: ")


@pytest.mark.parametrize("packed", [False, True])
def test_large_array_too_short_for_its_shape_is_refused(tmp_path, packed):
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        with archive.open("x.npy", "w") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (10**12,)}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(10_000))
    assert refused(path) == f"{path}: not a readable .npz file: x has 10,000 bytes, expected 1,000,000,000,000"


def test_large_array_of_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, y=np.arange(3), x=np.array([{"a": "b" * 9000}], object))
    assert refused(path) == f"{path}: x contains pickled objects, which can run code"


def test_missing_space_to_unpack_is_detected_before_writing(tmp_path, monkeypatch):
    path = save(tmp_path / "d.npz", packed=True)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(StorageError, match="disk full"):
        read_arrays(path, in_memory_bytes=5000)


def test_git_lfs_pointer_is_refused(tmp_path):
    path = tmp_path / "d.npz"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(DataError) as caught:
        read_arrays(path)
    assert caught.value.message == f"{path}: a Git LFS pointer, the file itself was not fetched"
    assert caught.value.hint == "git lfs pull fetches it"


def test_truncated_file_is_refused(tmp_path):
    path = save(tmp_path / "d.npz")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a zip archive, or truncated") as caught:
        read_arrays(path)
    assert caught.value.hint == "copy the file again, or write it with np.savez"
