"""Which kind of model lies at a path: found out by content, whatever the file is called."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path

from kdcli.errors import ModelError
from kdcli.models.files.remote import fetch_remote
from kdcli.runs.directory import find_run_model
from kdcli.screening.verdict import COPY_HINT, NO_TRUST, Trust

# What each kind of file is called when it has to have a name that says it.
MODEL_SUFFIXES = {"keras": ".keras", "h5": ".h5", "tflite": ".tflite", "onnx": ".onnx", "npz": ".npz"}
SAVED_MODEL = "saved_model"
# What opens as a Keras model: it can be trained, exported and taken apart.
KERAS_FORMATS = ("keras", "h5")
# What holds a model; `npz` holds what one answered.
MODEL_FORMATS = (*KERAS_FORMATS, SAVED_MODEL, "tflite", "onnx")
FORMATS_HINT = "a model is a .keras, .h5, .tflite or .onnx file, a SavedModel folder, or a run directory"
_ZIP = b"PK\x03\x04"
_POINTER = b"version https://git-lfs.github.com/spec/"
_HDF5, _LITERT = b"\x89HDF\r\n\x1a\n", b"TFL3"
GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")
# An ONNX file has no mark: it begins with field 1 (a version below this) and a field that follows it.
_ONNX_VERSIONS, _ONNX_NEXT = range(1, 64), (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)


def resolve_model_file(path: Path, *, trust: Trust = NO_TRUST) -> Path:
    """The file or SavedModel that a path means: itself, the model of a run directory, or a copy of a remote one.

    Args:
        trust: whether a remote one may be fetched.

    Raises:
        ModelError: there is no such file, or the folder is neither a SavedModel nor a finished run.
    """
    path = fetch_remote(path, trust=trust)
    if path.is_dir() and not _is_saved_model(path):
        found = find_run_model(path)
        if found is None:
            raise ModelError(f"{path} is a folder without a finished run or a SavedModel", hint=FORMATS_HINT)
        return found
    if not path.exists():
        raise ModelError(f"{path}: no such model file", hint=FORMATS_HINT)
    return path


def detect_format(path: Path) -> str:
    """`keras`, `h5`, `saved_model`, `tflite`, `onnx`, or `npz` for recorded answers.

    Raises:
        ModelError: none of them, or it cannot be read.
    """
    if path.is_dir():
        for part in (*(path / name for name in GRAPH_FILES), *path.glob("variables/*")):
            _refuse_pointer(part)
        return SAVED_MODEL
    _refuse_pointer(path)
    try:
        # Opening a pipe waits for somebody who writes to it, and a device never ends.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{path}: refused, it is no regular file", hint=FORMATS_HINT)
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if head == _HDF5:
        return "h5"
    if head[4:] == _LITERT:
        return "tflite"
    # What begins otherwise may be one thing to who reads from its end, another to who reads from its start.
    members = _members(path) if head.startswith(_ZIP) else []
    if "config.json" in members:
        return "keras"
    if any(name.endswith(".npy") for name in members):
        return "npz"
    if len(head) > 2 and head[0] == 8 and head[1] in _ONNX_VERSIONS and head[2] in _ONNX_NEXT:
        return "onnx"
    called = next((form for form, suffix in MODEL_SUFFIXES.items() if suffix == path.suffix), None)
    said = f"it is called {path.suffix}, but holds no such model" if called else "no model that kd opens"
    if not head or (called and head.startswith(_ZIP) and not members):
        why = "its end is missing" if head else "it is empty"
        raise ModelError(f"{path}: {said}: {why}", hint=COPY_HINT)
    if head.lstrip().startswith(b"<"):
        raise ModelError(f"{path}: a web page, not a model", hint="download the file, not its page")
    raise ModelError(f"{path}: {said}: damaged, or of another kind", hint=FORMATS_HINT)


def _refuse_pointer(path: Path) -> None:
    """Refuse what Git leaves in the place of a large file that was not fetched."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            with open(path, "rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    raise ModelError(f"{path}: a Git LFS pointer, not the file itself", hint="git lfs pull")
    except OSError:
        # Whoever reads it says so.
        return


def _is_saved_model(folder: Path) -> bool:
    return any((folder / name).exists() or (folder / name).is_symlink() for name in GRAPH_FILES)


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    # Whatever the zip reader meets in a damaged file: it is no archive then.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        return []


def read_keras_version(path: Path, form: str) -> str | None:
    """The version of Keras that wrote a `.keras` or `.h5` file; None where it does not say.

    Args:
        path: of a file that was screened.
        form: `keras` or `h5`.
    """
    import h5py

    try:
        if form == "keras":
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        with h5py.File(path, "r") as file:
            # Versions before 2 wrote none.
            version = file.attrs.get("keras_version", "1")
            return version.decode() if isinstance(version, bytes) else str(version)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None
