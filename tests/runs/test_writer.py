"""Atomic writes: a file appears complete or not at all, even if the disk fails."""

from __future__ import annotations

import errno
import os

import pytest

from kdcli.errors import StorageError
from kdcli.runs import writer

STEPS = ("open", "write", "fsync", "rename", "fsync_folder")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


def failing(at: int, error: BaseException, seen: list[str] | None = None):
    """A hook that raises at its call number `at`, from 0."""
    calls = [] if seen is None else seen

    def hook(step, path):
        calls.append(step)
        if len(calls) - 1 == at:
            raise error

    return hook


def test_write_is_hooked_before_each_of_its_steps(tmp_path, monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(writer, "hook", failing(-1, OSError(), seen))
    writer.write_text(tmp_path / "a.txt", "grün")
    assert tuple(seen) == STEPS
    assert (tmp_path / "a.txt").read_bytes() == "grün".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("at", range(len(STEPS)), ids=STEPS)
def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path, monkeypatch, at, number):
    path = tmp_path / "summary.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(writer, "hook", failing(at, OSError(number, os.strerror(number))))
    with pytest.raises(StorageError) as caught:
        writer.write_bytes(path, b"the new content")
    # After the rename the new file is complete; before it the old one is.
    assert path.read_bytes() == (b"the new content" if STEPS[at] == "fsync_folder" else b"old")
    assert os.listdir(tmp_path) == ["summary.json"]
    assert caught.value.exit_code == 5
    assert caught.value.location == str(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint


@pytest.mark.parametrize("at", range(4), ids=STEPS[:4])
def test_a_failed_first_write_leaves_no_file(tmp_path, monkeypatch, at):
    monkeypatch.setattr(writer, "hook", failing(at, OSError(errno.EIO, "")))
    with pytest.raises(StorageError, match="Input/output error"):
        writer.write_bytes(tmp_path / "a", b"content")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_reported_with_bytes_needed_and_free(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "hook", failing(1, OSError(errno.ENOSPC, "")))
    with pytest.raises(StorageError) as caught:
        writer.write_bytes(tmp_path / "a", b"x" * 1234)
    assert "disk full (1,234 bytes needed, " in caught.value.message
    assert caught.value.message.endswith(" bytes free)")
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch, ending):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(writer, "hook", failing(2, ending()))
    with pytest.raises(ending):
        writer.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_writing_into_a_missing_folder_is_a_storage_error_with_the_path(tmp_path):
    with pytest.raises(StorageError, match="No such file or directory") as caught:
        writer.write_text(tmp_path / "missing" / "a", "x")
    assert caught.value.location == str(tmp_path / "missing" / "a")
    assert os.listdir(tmp_path) == []


def test_make_folder_creates_parents_and_accepts_existing_folders(tmp_path):
    writer.make_folder(tmp_path / "a" / "b")
    writer.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_make_folder_below_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="Not a directory"):
        writer.make_folder(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


def test_remove_deletes_files_and_folders_and_ignores_missing_ones(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    for name in ("folder", "b", "missing"):
        writer.remove(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_remove_deletes_a_link_and_not_its_target(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    writer.remove(tmp_path / "link")
    assert (tmp_path / "kept" / "a").read_text() == "mine"
    assert os.listdir(tmp_path) == ["kept"]


def test_a_failed_remove_is_a_storage_error(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(writer, "hook", failing(0, OSError(errno.EACCES, "")))
    with pytest.raises(StorageError, match="Permission denied"):
        writer.remove(tmp_path / "a")
    assert (tmp_path / "a").exists()


def folder_with_files(path):
    (path / "inner").mkdir(parents=True)
    (path / "a").write_bytes(b"first")
    (path / "inner" / "b").write_bytes(b"second")
    return path


def everything_in(path):
    return sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*"))


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_folder_is_copied_completely(tmp_path, there):
    source = folder_with_files(tmp_path / "source")
    if there:
        (tmp_path / "out" / "exports").mkdir(parents=True)
    writer.copy_folder(source, tmp_path / "out" / "exports")
    assert everything_in(tmp_path / "out") == ["exports", "exports/a", "exports/inner", "exports/inner/b"]
    assert (tmp_path / "out" / "exports" / "inner" / "b").read_bytes() == b"second"


# mkdir, then open and fsync for each file, then rename.
@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
def test_a_failed_copy_of_a_folder_leaves_nothing(tmp_path, monkeypatch, at, number):
    source = folder_with_files(tmp_path / "source")
    seen: list[str] = []
    monkeypatch.setattr(writer, "hook", failing(at, OSError(number, os.strerror(number)), seen))
    with pytest.raises(StorageError) as caught:
        writer.copy_folder(source, tmp_path / "exports")
    assert seen == ["mkdir", "open", "fsync", "open", "fsync", "rename"][: at + 1]
    assert os.listdir(tmp_path) == ["source"]
    assert caught.value.hint and "--resume" not in caught.value.hint


def test_a_scratch_folder_is_removed_afterwards_and_refused_without_space(tmp_path, monkeypatch):
    with writer.scratch_folder(1000) as folder:
        (folder / "a").write_text("x")
    assert not folder.exists()
    with pytest.raises(OSError, match="No space"), writer.scratch_folder(10**18):
        raise AssertionError("there cannot be room")
