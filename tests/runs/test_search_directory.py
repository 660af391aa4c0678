"""A search on disk: outputs of rungs, and what `--overwrite` may delete."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.errors import Interrupted, UsageError
from kdcli.runs.search_directory import SearchDirectory


def opened(path, *, overwrite=False):
    directory = SearchDirectory.find(path, "test", resume=False, overwrite=overwrite)
    directory.open()
    return directory


def test_outputs_are_read_back(tmp_path):
    directory = opened(tmp_path / "small")
    directory.write_start("shrunk", b"model")
    outputs = np.arange(6.0).reshape(3, 2)
    directory.write_outputs("shrunk", 1, outputs)
    directory.write_outputs("shrunk", 1, outputs + 1, seed=7)
    np.testing.assert_array_equal(directory.read_outputs("shrunk", 1), outputs)
    np.testing.assert_array_equal(directory.read_outputs("shrunk", 1, seed=7), outputs + 1)
    assert directory.read_outputs("shrunk", 2) is None


def test_overwrite_deletes_a_search(tmp_path):
    directory = opened(tmp_path / "small")
    directory.write_record({"schema": "kd.search/1"})
    directory.write_start("shrunk", b"model")
    directory.write_start("shrunk-steps", b"model", larger=True)
    for name in ("model.tflite", "model.keras", "model.onnx", "labels.txt", "input.json", "compress.json"):
        (directory.path / name).write_text("x")
    for folder in ("model_saved_model/variables", "nearest"):
        (directory.path / folder).mkdir(parents=True)
    (directory.path / "model_saved_model" / "variables" / "a").write_text("x")
    (directory.path / "nearest" / "model.tflite").write_text("x")
    assert opened(directory.path, overwrite=True).read_record() == {}
    assert not (directory.path / "model.tflite").exists()
    assert not (directory.path / "candidates").exists()


@pytest.mark.parametrize(
    "name",
    ["mine.txt", "model.h5", "model_backup/a.bin", "models/a", "nearest/mine.txt", "candidates/shrunk/mine"],
)
def test_overwrite_keeps_what_kd_did_not_write(tmp_path, name):
    directory = opened(tmp_path / "small")
    directory.write_start("shrunk", b"model")
    mine = directory.path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("x")
    with pytest.raises(UsageError, match="which kd did not write"):
        opened(directory.path, overwrite=True)
    assert mine.exists()


def test_a_process_that_waits_for_the_lock_can_be_stopped(tmp_path):
    directory = opened(tmp_path / "small")
    with (
        directory.hold_lock(),
        pytest.raises(Interrupted) as caught,
        SearchDirectory(directory.path, overwrite=False).hold_lock(lambda: 130),
    ):
        raise AssertionError("the lock is held")
    assert caught.value.exit_code == 130
    with directory.hold_lock():
        pass
