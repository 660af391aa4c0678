"""Listing and removing cache entries."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cached_outputs import COMPONENTS, DESCRIBED, LAYOUT, answers, assert_whole, fill, made, no_stop, part

from kdcli.cache.entry import Entry
from kdcli.cache.inventory import delete_entries, find_entry, list_entries
from kdcli.errors import LockedError, StorageError, UsageError
from kdcli.runs import writer

OTHER = {**COMPONENTS, "split": "test"}


def test_an_empty_cache_has_no_entries_and_is_not_created(tmp_path):
    assert list_entries(tmp_path / "none") == []
    assert os.listdir(tmp_path) == []


def test_an_entry_is_listed_with_its_properties(tmp_path):
    entry, _ = fill(tmp_path)
    entry.open_reader()
    os.utime(entry.path / "used", (86_400, 86_400))
    (found,) = list_entries(tmp_path)
    size = sum(file.stat().st_size for file in entry.path.iterdir())
    assert size > LAYOUT.bytes
    assert found.to_json() == {
        "key": entry.fingerprint[:12],
        "described": DESCRIBED,
        "views": 2,
        "examples": 5_000,
        "precision": "float32",
        "bytes": size,
        "shards": 6,
        "of_shards": 6,
        "complete": True,
        "used": "1970-01-02T00:00:00Z",
    }


def test_an_incomplete_entry_is_listed_with_its_progress(tmp_path):
    entry = made(tmp_path)
    for shard in LAYOUT.shards[:4]:
        entry.write(shard, part(answers(), shard))
    (found,) = list_entries(tmp_path)
    assert (found.shards, found.of_shards, found.complete) == (4, 6, False)


def test_a_damaged_entry_is_listed_and_can_be_removed(tmp_path):
    entry, _ = fill(tmp_path)
    (entry.path / "about.json").write_bytes(b"{")
    (found,) = list_entries(tmp_path)
    assert (found.metadata, found.shards, found.complete, found.to_json()["described"]) == (None, 6, False, None)
    delete_entries([found])
    assert not entry.path.exists()


def test_the_most_recently_used_entry_comes_first(tmp_path):
    places = [fill(tmp_path, {**COMPONENTS, "number": number})[0].path for number in range(3)]
    for path, seconds in zip(places, (200, 300, 100), strict=True):
        (path / "used").touch()
        os.utime(path / "used", (seconds, seconds))
    assert [entry.path for entry in list_entries(tmp_path)] == [places[1], places[0], places[2]]


def foreign_files(folder):
    """Files that kd did not write, next to and inside an entry; returns their paths."""
    files = [
        folder / "answers" / "notes.txt",
        folder / "answers" / ("a" * 32) / "mine.answers",
        folder / "answers" / "short" / "about.json",
        folder / "remote" / "model.keras",
        Entry.find(folder, COMPONENTS).path / "notes.txt",
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    return files


def test_foreign_files_are_neither_listed_nor_removed(tmp_path):
    entry, _ = fill(tmp_path)
    files = foreign_files(tmp_path)
    assert [found.path for found in list_entries(tmp_path)] == [entry.path]
    delete_entries(list_entries(tmp_path))
    assert all(file.read_text() == "mine" for file in files)
    assert os.listdir(entry.path) == ["notes.txt"]
    assert list_entries(tmp_path) == []


def test_removing_returns_the_bytes_freed(tmp_path):
    first, second = fill(tmp_path)[0], fill(tmp_path, OTHER)[0]
    (first.path / f"{writer.TEMPORARY_PREFIX}1-0000-000000.answers").write_bytes(b"half")
    (entry,) = (entry for entry in list_entries(tmp_path) if entry.path == first.path)
    assert delete_entries([entry]) == entry.bytes
    assert not first.path.exists()
    assert [found.path for found in list_entries(tmp_path)] == [second.path]
    assert_whole(tmp_path, OTHER)


def test_a_reader_works_after_its_entry_is_removed(tmp_path):
    reader = fill(tmp_path)[0].open_reader()
    delete_entries(list_entries(tmp_path))
    for name, array in answers().items():
        assert reader.read_all(name).tobytes() == array.tobytes()


def test_an_entry_in_use_prevents_the_removal_of_all(tmp_path):
    entry = fill(tmp_path)[0]
    fill(tmp_path, OTHER)
    with entry.lock(on_wait=print, stop=no_stop):
        with pytest.raises(LockedError, match=f"in use by process {os.getpid()} on "):
            delete_entries(list_entries(tmp_path))
    assert len(list_entries(tmp_path)) == 2
    assert_whole(tmp_path)
    delete_entries(list_entries(tmp_path))
    assert list_entries(tmp_path) == []


def test_an_entry_is_listed_and_usable_after_a_failed_removal(tmp_path, monkeypatch):
    count = len(list(fill(tmp_path / "whole")[0].path.iterdir()))
    assert count == 9
    for at in range(count):
        folder, seen = tmp_path / str(at), []
        fill(folder)

        def failing(step, path, at=at, seen=seen):
            seen.append(path.name)
            if len(seen) > at:
                raise OSError(errno.EIO, "")

        monkeypatch.setattr(writer, "hook", failing)
        with pytest.raises(StorageError, match="Input/output error"):
            delete_entries(list_entries(folder))
        monkeypatch.undo()
        # The shards are removed first, then the metadata, then the lock.
        assert len(list_entries(folder)) == (0 if at == count - 1 else 1)
        fill(folder)
        assert_whole(folder)
    assert seen[-2:] == ["about.json", ".lock"]


def test_an_entry_is_found_by_the_start_of_its_key(tmp_path):
    entries = [fill(tmp_path, {**COMPONENTS, "number": number})[0] for number in range(2)]
    found = list_entries(tmp_path)
    for entry in entries:
        for length in (6, 12, 32, 64):
            assert find_entry(entry.fingerprint[:length], found).path == entry.path
        assert find_entry(entry.fingerprint[:12].upper(), found).path == entry.path


def test_an_unknown_key_suggests_the_closest(tmp_path):
    key = fill(tmp_path)[0].fingerprint[:12]
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    with pytest.raises(UsageError, match=f"no cache entry has the key '{wrong}'; did you mean '{key}'") as caught:
        find_entry(wrong, list_entries(tmp_path))
    assert caught.value.hint == "kd cache ls"
    for unlike in ("", "zzz"):
        with pytest.raises(UsageError, match=f"no cache entry has the key '{unlike}'$"):
            find_entry(unlike, list_entries(tmp_path))


def test_an_ambiguous_key_lists_the_candidates(tmp_path):
    keys, number = {}, 0
    while len(keys) == number:
        components = {**COMPONENTS, "number": number}
        entry = made(tmp_path, components)
        keys.setdefault(entry.path.name[0], []).append(entry.path.name[:12])
        number += 1
    first, both = next((first, names) for first, names in keys.items() if len(names) == 2)
    with pytest.raises(UsageError, match=f"'{first}' matches 2 keys: ") as caught:
        find_entry(first, list_entries(tmp_path))
    assert all(key in caught.value.message for key in both)


def test_an_entry_removed_while_it_is_listed_is_not_an_error(tmp_path, monkeypatch):
    entry, _ = fill(tmp_path)

    def gone(path):
        raise FileNotFoundError(errno.ENOENT, "", str(path))

    really = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: gone(path) if path == entry.path else really(path))
    (found,) = list_entries(tmp_path)
    assert (found.bytes, found.shards) == (0, 0)
