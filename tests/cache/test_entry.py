"""A cache entry: found by its components, filled, verified and read."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cached_outputs import COMPONENTS, DESCRIBED, LAYOUT, answers, assert_whole, fill, made, no_stop, part

from kdcli.cache.checksummed_json import compute_fingerprint
from kdcli.cache.entry import Entry
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.errors import StorageError
from kdcli.runs import writer


def everything_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_written_entry_is_found_and_read_back(tmp_path):
    entry, count = fill(tmp_path)
    assert count == len(LAYOUT.shards) == 6
    found = Entry.find(tmp_path, COMPONENTS)
    assert found.layout == LAYOUT
    assert found.path == entry.path == tmp_path / "answers" / entry.fingerprint[:32]
    assert found.fingerprint == compute_fingerprint(COMPONENTS)
    assert (found.missing(), found.damaged, found.bytes) == ((), [], LAYOUT.bytes)
    assert_whole(tmp_path)
    assert fill(tmp_path)[1] == 0


def test_finding_writes_nothing(tmp_path):
    assert Entry.find(tmp_path / "none", COMPONENTS) is None
    assert os.listdir(tmp_path) == []


def test_an_entry_is_found_by_its_components_in_any_order(tmp_path):
    made(tmp_path)
    assert Entry.find(tmp_path, dict(reversed(COMPONENTS.items()))) is not None
    for other in ({**COMPONENTS, "split": "test"}, {**COMPONENTS, "more": 1}, {"split": "train"}):
        assert Entry.find(tmp_path, other) is None


def test_the_metadata_describes_the_entry(tmp_path):
    entry = made(tmp_path, choices={"agreement": 0.9995})
    document = json.loads((entry.path / "about.json").read_text())
    assert document["schema"] == "kd.cache-entry/1"
    assert document["fingerprint"] == compute_fingerprint(COMPONENTS)
    assert (document["components"], document["described"]) == (COMPONENTS, DESCRIBED)
    assert document["choices"] == Entry.find(tmp_path, COMPONENTS).choices == {"agreement": 0.9995}
    assert Layout.from_json(document["layout"]) == LAYOUT
    assert document["versions"]["numpy"] == np.__version__


def test_secrets_are_not_written(tmp_path):
    described = {"teacher": "https://me:secret@host/teacher.keras"}
    entry = Entry.create(tmp_path, COMPONENTS, layout=LAYOUT, described=described, choices={})
    assert entry.metadata.described == {"teacher": "https://***@host/teacher.keras"}
    assert "secret" not in (entry.path / "about.json").read_text()


def test_the_layout_of_the_first_process_is_used(tmp_path):
    made(tmp_path, choices={"first": 1})
    other = made(tmp_path, layout=Layout(5, 1, (ArraySpec("logits", "float32", (3,)),)), choices={"second": 2})
    assert (other.layout, other.choices) == (LAYOUT, {"first": 1})


def test_missing_shards_are_found_one_by_one(tmp_path):
    entry = made(tmp_path)
    assert entry.missing() == LAYOUT.shards
    assert entry.bytes == 0
    arrays = answers()
    for number, shard in enumerate(LAYOUT.shards):
        assert entry.missing() == LAYOUT.shards[number:]
        assert Entry.find(tmp_path, COMPONENTS).missing() == LAYOUT.shards[number:]
        entry.write(shard, part(arrays, shard))
    assert entry.missing() == ()


def test_shards_of_another_process_are_not_missing(tmp_path):
    entry = made(tmp_path)
    assert len(entry.missing()) == 6
    fill(tmp_path)
    assert entry.missing() == ()


def test_a_shard_is_verified_once(tmp_path, monkeypatch):
    fill(tmp_path)
    checked = []
    monkeypatch.setattr("kdcli.cache.entry.verify_file", lambda path: checked.append(path.name))
    entry = Entry.find(tmp_path, COMPONENTS)
    entry.missing()
    entry.missing()
    entry.open_reader()
    assert checked == [shard.file_name for shard in LAYOUT.shards]


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("hint"),
        lambda arrays: arrays.update(more=arrays["hint"]),
        lambda arrays: arrays.update(hint=arrays["hint"][1:]),
        lambda arrays: arrays.update(hint=arrays["hint"].reshape(-1, 2)),
        lambda arrays: arrays.update(hint=arrays["hint"].astype(np.float32)),
    ],
    ids=["missing", "unknown", "short", "other shape", "other type"],
)
def test_arrays_that_do_not_match_the_layout_are_refused(tmp_path, change):
    entry, shard = made(tmp_path), LAYOUT.shards[1]
    arrays = part(answers(), shard)
    change(arrays)
    with pytest.raises(ValueError, match="does not match the layout"):
        entry.write(shard, arrays)
    assert entry.missing() == LAYOUT.shards


def test_a_shard_of_another_layout_is_refused(tmp_path):
    entry = made(tmp_path)
    shard = LAYOUT.shards[0]
    with pytest.raises(ValueError, match="Shard"):
        entry.write(type(shard)(0, 0, 1, 8193), part(answers(), shard))


def test_an_incomplete_entry_cannot_be_read(tmp_path):
    entry = made(tmp_path)
    shard = LAYOUT.shards[0]
    entry.write(shard, part(answers(), shard))
    with pytest.raises(StorageError, match="5 of 6 shards of cached outputs are missing") as caught:
        entry.open_reader()
    assert "run the same command again" in caught.value.hint


def test_reading_records_the_time_of_use(tmp_path):
    entry, _ = fill(tmp_path)
    assert not (entry.path / "used").exists()
    entry.open_reader()
    os.utime(entry.path / "used", (1, 1))
    entry.open_reader()
    assert (entry.path / "used").stat().st_mtime > 1


def refusing(step, path):
    raise OSError(errno.EROFS, "")


def test_a_complete_entry_is_read_without_writing(tmp_path, monkeypatch):
    fill(tmp_path)
    before = everything_in(tmp_path)
    monkeypatch.setattr(writer, "hook", refusing)
    monkeypatch.setattr(Path, "touch", lambda path: refusing("touch", path))
    entry = Entry.find(tmp_path, COMPONENTS)
    assert entry.missing() == ()
    assert_whole(tmp_path)
    assert everything_in(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_folder_is_read(tmp_path):
    entry, _ = fill(tmp_path)
    os.chmod(entry.path, 0o500)
    try:
        assert_whole(tmp_path)
        (shard, *_) = LAYOUT.shards
        with pytest.raises(StorageError, match="Permission denied"):
            entry.write(shard, part(answers(), shard))
    finally:
        os.chmod(entry.path, 0o700)


def test_a_damaged_shard_of_a_read_only_folder_counts_as_missing(tmp_path, monkeypatch):
    entry, _ = fill(tmp_path)
    path = entry.path / LAYOUT.shards[2].file_name
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(writer, "hook", refusing)
    found = Entry.find(tmp_path, COMPONENTS)
    assert found.missing() == (LAYOUT.shards[2],)
    assert found.damaged == [f"{path}: the file is damaged"]
    assert path.exists()


@pytest.mark.parametrize("step", ["mkdir", "open", "write", "fsync", "rename"])
def test_a_full_disk_is_reported_and_damages_nothing(tmp_path, monkeypatch, step):
    entry = made(tmp_path)
    first, second, *_ = LAYOUT.shards
    entry.write(first, part(answers(), first))

    def full(at, path):
        if at == step:
            raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(writer, "hook", full)
    with pytest.raises(StorageError, match="disk full") as caught:
        if step == "mkdir":
            made(tmp_path, {**COMPONENTS, "split": "test"})
        entry.write(second, part(answers(), second))
    assert caught.value.exit_code == 5
    assert "kd cache rm" in caught.value.hint and "--resume" in caught.value.hint
    monkeypatch.setattr(writer, "hook", writer._no_hook)
    assert Entry.find(tmp_path, COMPONENTS).missing() == LAYOUT.shards[1:]
    assert not list(tmp_path.rglob(f"{writer.TEMPORARY_PREFIX}*"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=lambda n: errno.errorcode[n])
def test_a_disk_failure_at_any_step_damages_no_shard_and_leaves_no_temporary_file(tmp_path, monkeypatch, number):
    call, failed = 0, True
    while failed:
        call += 1
        folder, seen = tmp_path / str(call), []

        def failing(step, path, call=call, seen=seen):
            seen.append(step)
            if len(seen) == call:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(writer, "hook", failing)
        try:
            fill(folder)
            failed = False
        except StorageError as error:
            assert error.exit_code == 5
            assert ("kd cache rm" if number == errno.ENOSPC else "KD_CACHE_DIR") in error.hint
        monkeypatch.undo()
        assert not list(folder.rglob(f"{writer.TEMPORARY_PREFIX}*"))
        entry, count = fill(folder)
        assert entry.damaged == []
        # Folders, metadata and holder take 12 steps; a shard takes five, the last of them after its rename.
        assert count == 6 - max(0, call - 12) // 5
        assert_whole(folder)
    assert call == 43


def test_a_file_in_place_of_the_folder_is_a_storage_error(tmp_path):
    (tmp_path / "cache").write_text("mine")
    assert Entry.find(tmp_path / "cache", COMPONENTS) is None
    with pytest.raises(StorageError, match="Not a directory") as caught:
        made(tmp_path / "cache")
    assert str(tmp_path / "cache") in caught.value.message
    assert caught.value.hint == "another KD_CACHE_DIR, or --set teacher.targets=memory"
    assert (tmp_path / "cache").read_text() == "mine"


def test_a_folder_in_place_of_a_shard_is_reported_and_not_removed(tmp_path):
    entry = made(tmp_path)
    shard = LAYOUT.shards[0]
    (entry.path / shard.file_name / "mine").mkdir(parents=True)
    assert entry.missing() == LAYOUT.shards
    assert str(entry.path / shard.file_name) in entry.damaged[0]
    with pytest.raises(StorageError, match="Is a directory"):
        entry.write(shard, part(answers(), shard))
    assert (entry.path / shard.file_name / "mine").is_dir()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system")
def test_the_cache_can_be_on_another_file_system(tmp_path):
    folder = Path("/dev/shm") / f"kd-{tmp_path.name}-{os.getpid()}"
    try:
        fill(folder)
        assert_whole(folder)
    finally:
        shutil.rmtree(folder)


def test_a_removed_entry_is_created_again_by_the_process_that_fills_it(tmp_path):
    entry = made(tmp_path)
    shutil.rmtree(entry.path)
    with entry.lock(on_wait=print, stop=no_stop):
        for shard in entry.missing():
            entry.write(shard, part(answers(), shard))
            if shard.number == 1 and shard.view == 0:
                shutil.rmtree(entry.path)
    assert Entry.find(tmp_path, COMPONENTS).missing() == LAYOUT.shards[:2]
    assert entry.missing() == LAYOUT.shards[:2]


def test_an_entry_removed_while_it_is_read_stays_readable(tmp_path):
    entry, _ = fill(tmp_path)
    reader = entry.open_reader()
    shutil.rmtree(entry.path)
    for name, array in answers().items():
        assert reader.read_all(name).tobytes() == array.tobytes()
        assert reader.take(name, 1, np.asarray([4_999, 0])).tobytes() == array[1, [4_999, 0]].tobytes()


@pytest.mark.parametrize("at", range(6))
def test_an_entry_removed_while_it_is_opened_counts_as_missing(tmp_path, monkeypatch, at):
    from kdcli.cache import entry as module

    entry, _ = fill(tmp_path)
    entry.missing()
    mapped = []

    def mapping(path, really=module.map_file):
        if len(mapped) == at:
            shutil.rmtree(entry.path)
        mapped.append(path)
        return really(path)

    monkeypatch.setattr(module, "map_file", mapping)
    with pytest.raises(StorageError, match=f"{6 - at} of 6 shards of cached outputs are missing"):
        entry.open_reader()


def test_old_temporary_files_are_removed(tmp_path):
    entry, _ = fill(tmp_path)
    young = entry.path / f"{writer.TEMPORARY_PREFIX}1-0000-000000.answers"
    old = entry.path / f"{writer.TEMPORARY_PREFIX}2-about.json"
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    entry.open_reader()
    # Another process may be writing a young one.
    assert young.exists() and not old.exists()
