"""The format of a model file is detected from its content."""

from __future__ import annotations

import json
import os
import zipfile

import h5py
import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.models.files.format import FORMATS_HINT, detect_format, read_keras_version, resolve_model_file
from kdcli.screening.verdict import COPY_HINT


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "."), content)
    return path


def make(path, form):
    if form == "h5":
        h5py.File(path, "w").close()
    elif form == "keras":
        archive(path, config__json="{}")
    elif form == "npz":
        with open(path, "wb") as file:
            np.savez(file, x=np.zeros(1))
    else:
        path.write_bytes({"tflite": b"\x1c\0\0\0TFL3" + b"\0" * 8, "onnx": b"\x08\x0a\x12\x08tf2onnx\x1a"}[form])
    return path


@pytest.mark.parametrize("form", ["keras", "h5", "tflite", "onnx", "npz"])
@pytest.mark.parametrize("suffix", ["", ".keras", ".h5", ".bin"])
def test_the_format_is_detected_from_the_content(tmp_path, form, suffix):
    assert detect_format(make(tmp_path / f"m{suffix}", form)) == form


@pytest.mark.parametrize("name", ["saved_model.pb", "saved_model.pbtxt"])
def test_a_folder_with_a_graph_is_a_saved_model(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert resolve_model_file(tmp_path) == tmp_path
    assert detect_format(tmp_path) == "saved_model"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"\x08", "m.onnx", "not a .onnx file: damaged, or another format"),
        (b"hello, world", "notes.txt", "not a model that kd can open"),
    ],
)
def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path, content, name, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as failure:
        detect_format(tmp_path / name)
    assert (failure.value.exit_code, failure.value.hint) == (4, FORMATS_HINT)


@pytest.mark.parametrize(
    ("content", "name", "message", "hint"),
    [
        (b"", "m.keras", "not a .keras file: the file is empty", COPY_HINT),
        (b"PK\x03\x04 broken", "m.h5", "not a .h5 file: the file is truncated", COPY_HINT),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "m.onnx",
            "a Git LFS pointer",
            "git lfs pull",
        ),
        (
            b"<!DOCTYPE html><html>",
            "m.tflite",
            "a web page, not a model",
            "download the file itself, not its web page",
        ),
    ],
)
def test_a_file_that_replaces_a_model_is_recognized(tmp_path, content, name, message, hint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as failure:
        detect_format(tmp_path / name)
    assert (failure.value.exit_code, failure.value.hint) == (4, hint)


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_a_git_lfs_pointer_inside_a_saved_model_is_refused(tmp_path, name):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=f"{name}: a Git LFS pointer"):
        detect_format(tmp_path)


def test_a_zip_archive_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not a model that kd can open"):
        detect_format(archive(tmp_path / "m.zip", readme="x"))


def test_a_missing_file_and_a_folder_without_a_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        resolve_model_file(tmp_path / "none.keras")
    with pytest.raises(ModelError, match="without a finished run or a SavedModel"):
        resolve_model_file(tmp_path)


def test_the_version_of_keras_is_read_from_a_file(tmp_path):
    new = archive(tmp_path / "new.keras", metadata__json=json.dumps({"keras_version": "3.15.1"}))
    assert read_keras_version(new, "keras") == "3.15.1"
    assert read_keras_version(archive(tmp_path / "bare.keras", config__json="{}"), "keras") is None
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["keras_version"] = b"2.3.0"
    assert read_keras_version(tmp_path / "old.h5", "h5") == "2.3.0"
    with h5py.File(tmp_path / "oldest.h5", "w") as file:
        file.attrs["model_config"] = "{}"
    assert read_keras_version(tmp_path / "oldest.h5", "h5") == "1"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_pipes_and_devices_are_not_opened(tmp_path, make):
    make(tmp_path / "m.keras")
    with pytest.raises(ModelError, match="not a regular file"):
        detect_format(tmp_path / "m.keras")


def test_a_file_in_two_formats_at_once_is_refused(tmp_path):
    with h5py.File(tmp_path / "both", "w", userblock_size=512):
        pass
    inside = archive(tmp_path / "m.keras", config__json="{}").read_bytes()
    (tmp_path / "both").write_bytes((tmp_path / "both").read_bytes() + inside)
    with pytest.raises(ModelError, match="not a model that kd can open"):
        detect_format(tmp_path / "both")
