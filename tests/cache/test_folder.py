"""The folder of the cache and its size limits."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple

import platformdirs
import pytest
from cached_outputs import fill

from kdcli.cache import folder
from kdcli.errors import StorageError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch):
    """A disk with 1,000,000 bytes free; returns the paths whose disk was checked."""
    asked = []

    def usage(path):
        asked.append(path)
        return Usage(10_000_000, 9_000_000, 1_000_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return asked


def test_the_folder_is_set_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "mine"))
    assert (folder.find_cache_folder(), folder.is_cache_folder_set()) == (tmp_path / "mine", True)
    monkeypatch.setenv("KD_CACHE_DIR", "~/mine")
    assert str(folder.find_cache_folder()) == os.path.expanduser("~/mine")


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_system_cache_folder_is_used(monkeypatch, value):
    monkeypatch.delenv("KD_CACHE_DIR", raising=False)
    if value is not None:
        monkeypatch.setenv("KD_CACHE_DIR", value)
    assert str(folder.find_cache_folder()) == platformdirs.user_cache_dir("kdcli")
    assert not folder.is_cache_folder_set()


def test_one_fifth_of_the_free_disk_space_may_be_written(tmp_path, free):
    assert folder.count_allowed_bytes(tmp_path / "not" / "there", None) == 200_000
    assert free == [tmp_path]


def test_a_limit_applies_to_everything_in_the_cache(tmp_path, free):
    assert folder.count_allowed_bytes(tmp_path, 900_000) == 900_000
    assert folder.count_allowed_bytes(tmp_path, 10**12) == 1_000_000
    fill(tmp_path)
    kept = folder.count_cached_bytes(tmp_path)
    assert 100_000 < kept < 110_000
    assert folder.count_allowed_bytes(tmp_path, 900_000) == 900_000 - kept
    assert folder.count_allowed_bytes(tmp_path, 1_000) == 0


def test_foreign_files_do_not_count(tmp_path, free):
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "model.keras").write_bytes(bytes(5_000))
    assert folder.count_allowed_bytes(tmp_path, 10_000) == 10_000


def test_nothing_may_be_written_to_a_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert folder.count_allowed_bytes(tmp_path, None) == 0
    assert folder.count_allowed_bytes(tmp_path, 10**9) == 0


def test_an_unknown_free_disk_space_is_a_storage_error(tmp_path, monkeypatch):
    def usage(path):
        raise OSError(5, "")

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(StorageError, match="Input/output error"):
        folder.count_allowed_bytes(tmp_path, None)


def test_a_folder_that_does_not_exist_yet_is_usable(tmp_path):
    assert folder.explain_unusable(tmp_path) is None
    assert folder.explain_unusable(tmp_path / "not" / "there") is None
    assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_the_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert folder.explain_unusable(tmp_path / "file") == "it is a file"
    assert folder.explain_unusable(tmp_path / "file" / "cache") == f"{tmp_path / 'file'} is a file"
    assert folder.count_allowed_bytes(tmp_path / "file" / "cache", None) == 0


def test_a_read_only_folder_is_usable_only_with_entries_in_it(tmp_path, monkeypatch):
    fill(tmp_path / "full")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert folder.explain_unusable(tmp_path / "empty") == "it cannot be written"
    assert folder.explain_unusable(tmp_path / "full") is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert folder.explain_unusable(tmp_path / "full") == "it cannot be read"
