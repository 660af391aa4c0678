"""Models are opened from a private copy."""

from __future__ import annotations

import os
import stat

import pytest

from kdcli.errors import ModelError, StorageError
from kdcli.models.files.screened_copy import make_private_copy
from kdcli.runs import writer


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    (made / "variables").mkdir(parents=True)
    (made / "saved_model.pb").write_bytes(b"graph")
    (made / "variables" / "variables.index").write_bytes(b"index")
    return made


def test_a_file_is_copied_with_the_suffix_of_its_format(tmp_path):
    given = tmp_path / "odd.bin"
    given.write_bytes(b"content")
    with make_private_copy(given, "h5") as copied:
        assert copied.read_bytes() == b"content"
        assert copied.suffix == ".h5" and copied != given
        assert stat.S_IMODE(copied.stat().st_mode) == 0o600
        assert stat.S_IMODE(copied.parent.stat().st_mode) == 0o700
        given.write_bytes(b"changed meanwhile")
        assert copied.read_bytes() == b"content"
    assert not copied.exists()


def test_a_folder_is_copied_with_its_links_as_links(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (folder / "assets").mkdir()
    (folder / "assets" / "words.txt").symlink_to(secret)
    with make_private_copy(folder, "saved_model") as copied:
        files = {entry.relative_to(copied).as_posix() for entry in copied.rglob("*") if not entry.is_dir()}
        assert files == {"saved_model.pb", "variables/variables.index", "assets/words.txt"}
        assert os.readlink(copied / "assets" / "words.txt") == str(secret)
    assert not copied.exists() and secret.read_text() == "secret"


def test_a_pipe_in_a_folder_is_refused_without_waiting(folder):
    os.mkfifo(folder / "assets")
    with pytest.raises(ModelError, match="assets is neither a file nor a folder"):
        with make_private_copy(folder, "saved_model"):
            pass


@pytest.mark.parametrize(("name", "size"), [("saved_model.pb", 3 * 2**30), ("fingerprint.pb", 2**30)])
def test_a_huge_sparse_file_is_refused_before_it_is_copied(folder, name, size):
    with open(folder / name, "ab") as file:
        file.truncate(size)
    with pytest.raises(ModelError, match=f"refused, size: {name} has {size:,} bytes"):
        with make_private_copy(folder, "saved_model"):
            pass


def test_deeply_nested_folders_are_refused(folder):
    at = folder
    for _ in range(30):
        at = at / "deeper"
        at.mkdir()
    with pytest.raises(ModelError, match="nested more than 20 deep"), make_private_copy(folder, "saved_model"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_a_file_that_cannot_be_read_is_a_model_error(tmp_path):
    given = tmp_path / "m.h5"
    given.write_bytes(b"x")
    given.chmod(0)
    with pytest.raises(ModelError, match="cannot be read"), make_private_copy(given, "h5"):
        pass


def test_no_space_for_the_copy_is_a_storage_error(tmp_path, monkeypatch):
    given = tmp_path / "m.h5"
    given.write_bytes(b"x")

    class Full:
        free = 0

    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: Full)
    with pytest.raises(StorageError, match=r"disk full \(1 bytes needed"), make_private_copy(given, "h5"):
        pass


def test_an_error_in_the_block_is_not_reported_as_a_copying_error(tmp_path):
    given = tmp_path / "m.h5"
    given.write_bytes(b"x")
    with pytest.raises(OSError, match="from the block"), make_private_copy(given, "h5") as copied:
        raise OSError("from the block")
    assert not copied.exists()
