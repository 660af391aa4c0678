"""Checkpoints: saved state is read back bit for bit, and damaged files are never used."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from kdcli.errors import StorageError
from kdcli.runs import writer
from kdcli.runs.packed_file import PackedData, pack, unpack
from kdcli.training.checkpoint import Checkpoints, parse_period

HERE = Path("step.checkpoint")


def sample(step: int = 3) -> PackedData:
    """Arrays of the kinds that training saves, and a state with text and nulls."""
    random = np.random.default_rng(step)
    arrays = {
        "model/0": random.normal(size=(3, 4)).astype(np.float32),
        "model/1": random.integers(0, 2**32, 2, dtype=np.uint32),
        "optimizer/0": np.asarray(step, np.int64),
        "optimizer/1": np.asarray(0.5, np.float32),
        "parts/0": np.empty((0, 5), np.float32),
        "parts/1": np.asarray([True, False]),
        "best/0": np.asarray([np.pi, np.nan, -np.inf]),
        "order": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    }
    document = {"step": step, "history": [{"loss": 0.1}], "name": "grün", "best_figure": None}
    return PackedData(document, arrays)


def assert_same(found: PackedData, expected: PackedData) -> None:
    assert found.document == expected.document
    assert list(found.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()


def checkpoints(folder: Path, every: str = "1 steps", keep: int = 2, clock=lambda: 0.0) -> Checkpoints:
    return Checkpoints(folder, every=every, keep=keep, clock=clock)


def save(made: Checkpoints, *steps: int) -> list[Path]:
    return [made.save(step, sample(step).document, sample(step).arrays) for step in steps]


def test_packed_state_is_read_back_bit_for_bit():
    assert_same(unpack(pack(sample()), HERE), sample())


def test_same_state_packs_to_the_same_bytes():
    assert pack(sample()) == pack(sample())


def test_state_without_arrays_is_read_back():
    assert_same(unpack(pack(PackedData({"step": 0}, {})), HERE), PackedData({"step": 0}, {}))


def test_truncated_checkpoint_is_refused_at_every_length():
    content = pack(sample())
    for length in range(len(content)):
        with pytest.raises(StorageError, match=r"step\.checkpoint: the file is damaged"):
            unpack(content[:length], HERE)


def test_flipped_bit_is_refused_at_every_place():
    content = bytearray(pack(sample()))
    for at in range(len(content)):
        bit = 1 << at % 8
        content[at] ^= bit
        with pytest.raises(StorageError, match="damaged"):
            unpack(bytes(content), HERE)
        content[at] ^= bit
    assert_same(unpack(bytes(content), HERE), sample())


def test_zeroed_page_is_refused_at_every_place():
    arrays = {"model/0": np.random.default_rng(0).normal(size=5000)}
    content = pack(PackedData({"step": 1}, arrays))
    assert len(content) > 9 * 4096
    for start in range(0, len(content), 4096):
        page = content[start : start + 4096]
        with pytest.raises(StorageError, match="damaged"):
            unpack(content[:start] + bytes(len(page)) + content[start + 4096 :], HERE)


def test_trailing_bytes_are_refused():
    with pytest.raises(StorageError, match="damaged"):
        unpack(pack(sample()) + b"\0", HERE)


def test_newest_checkpoint_is_used(tmp_path):
    save(checkpoints(tmp_path / "c"), 1, 2)
    found, wrong = checkpoints(tmp_path / "c").read_newest()
    assert_same(found, sample(2))
    assert wrong == []


def test_without_checkpoints_nothing_is_read_or_created(tmp_path):
    assert checkpoints(tmp_path / "c").read_newest() == (None, [])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "zero", "empty", "folder"])
def test_damaged_newest_checkpoint_falls_back_to_the_older_one_and_is_named(tmp_path, damage):
    _, newest = save(checkpoints(tmp_path), 1, 2)
    content = bytearray(newest.read_bytes())
    if damage == "truncate":
        del content[len(content) // 2 :]
    elif damage == "flip":
        content[len(content) // 2] ^= 4
    elif damage == "zero":
        content[100:200] = bytes(100)
    elif damage == "empty":
        content.clear()
    newest.unlink()
    if damage == "folder":
        newest.mkdir()
    else:
        newest.write_bytes(content)
    found, wrong = checkpoints(tmp_path).read_newest()
    assert_same(found, sample(1))
    assert len(wrong) == 1
    assert str(newest) in wrong[0]


def test_no_valid_checkpoint_is_a_storage_error_that_names_all(tmp_path):
    paths = save(checkpoints(tmp_path), 1, 2)
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="no valid checkpoint") as caught:
        checkpoints(tmp_path).read_newest()
    assert caught.value.exit_code == 5
    assert all(str(path) in caught.value.message for path in paths)
    assert "--overwrite" in caught.value.hint


def test_only_the_newest_are_kept(tmp_path):
    save(checkpoints(tmp_path, keep=2), 5, 10, 15, 1000)
    assert sorted(os.listdir(tmp_path)) == ["step-000000015.checkpoint", "step-000001000.checkpoint"]


def test_failed_save_keeps_the_older_checkpoints(tmp_path, monkeypatch):
    made = checkpoints(tmp_path, keep=1)
    save(made, 1)
    steps = []
    for at in range(1, 6):

        def hook(step, path, at=at):
            steps.append(step)
            if len(steps) == at:
                raise OSError(errno.ENOSPC, "")

        steps.clear()
        monkeypatch.setattr(writer, "hook", hook)
        with pytest.raises(StorageError, match="disk full"):
            save(made, 2)
        assert os.listdir(tmp_path) == ["step-000000001.checkpoint"]
    assert_same(checkpoints(tmp_path).read_newest()[0], sample(1))


def test_file_left_by_a_killed_save_is_ignored(tmp_path):
    save(checkpoints(tmp_path), 1)
    (tmp_path / f"{writer.TEMPORARY_PREFIX}1-step-000000002.checkpoint").write_bytes(b"half")
    found, wrong = checkpoints(tmp_path).read_newest()
    assert_same(found, sample(1))
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("30s", ("seconds", 30)),
        ("2m", ("seconds", 120)),
        ("1h", ("seconds", 3600)),
        ("500 steps", ("steps", 500)),
        ("1 step", ("steps", 1)),
        ("1 epochs", ("epochs", 1)),
        ("3 epoch", ("epochs", 3)),
    ],
)
def test_period_is_read(text, period):
    assert parse_period(text) == period


def test_saving_is_due_by_time_since_the_last_one(tmp_path):
    now = [100.0]
    made = checkpoints(tmp_path, every="2m", clock=lambda: now[0])
    assert made.steps_until_due(7, 10) is None
    now[0] += 119
    assert not made.is_due(7, 10)
    now[0] += 1
    assert made.is_due(7, 10)
    save(made, 7)
    assert not made.is_due(7, 10)
    assert not made.is_due(8, 10)
    now[0] += 120
    assert made.is_due(8, 10)


def test_saving_is_due_by_steps(tmp_path):
    made = checkpoints(tmp_path, every="4 steps")
    assert [made.steps_until_due(step, 10) for step in (0, 1, 3, 4)] == [4, 3, 1, 4]
    assert [step for step in range(1, 13) if made.is_due(step, 10)] == [4, 8, 12]


def test_saving_is_due_by_epochs(tmp_path):
    made = checkpoints(tmp_path, every="2 epochs")
    assert [made.steps_until_due(step, 5) for step in (0, 9, 10)] == [10, 1, 10]
    assert [step for step in range(1, 31) if made.is_due(step, 5)] == [10, 20, 30]


def test_nothing_is_due_again_at_the_step_that_was_saved_or_restored(tmp_path):
    made = checkpoints(tmp_path, every="4 steps")
    save(made, 4)
    assert not made.is_due(4, 10)
    again = checkpoints(tmp_path, every="4 steps")
    again.read_newest()
    assert not again.is_due(4, 10)
