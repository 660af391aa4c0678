"""Reading HDF5 files in a child process that may crash."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdcli.screening.keras import hdf5, hdf5_process, hdf5_walk
from kdcli.screening.keras.hdf5 import read_hdf5, screen_hdf5


def read(path: Path):
    return read_hdf5(path, start=0, size=path.stat().st_size)


def read_with_child(path: Path, monkeypatch, body: str):
    """Read a file with a child process that runs other code."""
    script = path.with_name("other_child.py")
    script.write_text(body, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(path.parent), prepend=os.pathsep)
    monkeypatch.setattr(hdf5_process, "__name__", "other_child")
    return read(path)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as made:
        made["a/b/kernel"] = np.ones((5, 3), np.float32)
        made["a/b/kernel"].attrs["dtype"] = "float32"
        made.create_dataset("packed", data=np.random.default_rng(0).normal(size=(400, 30)), compression="gzip")
        made.create_dataset("many", (6, 4), "i8", chunks=(2, 2), shuffle=True, fletcher32=True)
        made["scalar"], made["none"] = np.float16(3), np.zeros((0, 4))
        made["half"] = np.zeros(3, "V2")
        made.attrs["names"] = [b"one", b"two"]
        made.attrs["weights"] = np.zeros(0)
        made.attrs["nothing"] = h5py.Empty("f4")
        made.attrs["model_config"] = '{"class_name": "Größe"}'
    return path


def test_all_values_are_counted(file):
    found = read(file)
    assert found.findings == ()
    assert found.values == 15 + 12_000 + 24 + 1 + 0 + 3
    assert found.config == '{"class_name": "Größe"}'


def test_a_file_is_read_from_inside_another_file(file, tmp_path):
    whole = tmp_path / "whole"
    whole.write_bytes(b"x" * 777 + file.read_bytes() + b"y" * 99)
    assert read_hdf5(whole, start=777, size=file.stat().st_size) == read(file)


def test_a_damaged_chunk_is_found(file):
    content = bytearray(file.read_bytes())
    with h5py.File(file) as opened:
        chunk = opened["many"].id.get_num_chunks()
        place = opened["packed"].id.get_chunk_info(0).byte_offset
    assert chunk == 0
    content[place + 20 : place + 60] = bytes(40)
    file.write_bytes(bytes(content))
    (finding,) = read(file).findings
    assert finding.rule == "unreadable" and "damaged" in finding.message


def test_a_crash_of_the_child_means_a_damaged_file(file, monkeypatch):
    found = read_with_child(file, monkeypatch, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert [str(finding) for finding in found.findings] == [
        f"unreadable: damaged: the file crashed its reader (signal {signal.SIGSEGV.value}, SIGSEGV)"
    ]


def test_a_child_without_a_result_means_a_damaged_file(file, monkeypatch):
    (finding,) = read_with_child(file, monkeypatch, "raise SystemExit(3)").findings
    assert finding.message == "damaged: its reader ended without a result (exit code 3)"


def test_a_child_that_hangs_is_killed(file, monkeypatch):
    monkeypatch.setattr(hdf5, "_TIMEOUT_SECONDS", 0.5)
    (finding,) = read_with_child(file, monkeypatch, "import time\ntime.sleep(60)").findings
    assert "took longer than" in finding.message


def test_a_child_in_an_endless_loop_is_killed(file, monkeypatch):
    limits = "from kdcli.screening.process_limits import limit_process\nlimit_process(memory=10**9, cpu_seconds=1)"
    body = f"{limits}\nwhile True: pass"
    (finding,) = read_with_child(file, monkeypatch, body).findings
    assert "crashed its reader (signal" in finding.message


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_get_a_verdict(file, seed):
    random = np.random.default_rng(seed)
    whole = file.read_bytes()
    content = bytearray(whole)
    for place in random.integers(8, len(whole), 12):
        content[place] = random.integers(256)
    file.write_bytes(bytes(content))
    verdict = screen_hdf5(file, custom_names=())
    assert all("\n" not in str(finding) for finding in verdict.findings)


def test_slabs_cover_every_value_once():
    for shape in [(), (7,), (0, 3), (1, 9_000_000), (30_000, 30), (3, 3, 700_000)]:
        counted = np.zeros(shape, np.int8)
        for place in hdf5_walk._slabs(shape, 4):
            counted[place] += 1
        assert (counted == 1).all()
