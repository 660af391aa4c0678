"""The format of a model file, detected from its content; the suffix does not matter."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path

from kdcli.errors import ModelError
from kdcli.models.files.remote import fetch_remote
from kdcli.runs.directory import find_run_model
from kdcli.screening.verdict import COPY_HINT, NO_TRUST, Trust

# The suffix of each format, for copies and for messages.
MODEL_SUFFIXES = {"keras": ".keras", "h5": ".h5", "tflite": ".tflite", "onnx": ".onnx", "npz": ".npz"}
SAVED_MODEL = "saved_model"
# Formats that open as Keras models, which can be trained, exported and shrunk.
KERAS_FORMATS = ("keras", "h5")
# Formats of models; `npz` holds recorded outputs.
MODEL_FORMATS = (*KERAS_FORMATS, SAVED_MODEL, "tflite", "onnx")
FORMATS_HINT = "a model is a .keras, .h5, .tflite or .onnx file, a SavedModel folder, or a run directory"
_ZIP = b"PK\x03\x04"
_POINTER = b"version https://git-lfs.github.com/spec/"
_HDF5, _LITERT = b"\x89HDF\r\n\x1a\n", b"TFL3"
GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")
# An ONNX file has no signature: it begins with field 1 (a version in this range) and one of the next fields.
_ONNX_VERSIONS, _ONNX_NEXT = range(1, 64), (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)


def resolve_model_file(path: Path, *, trust: Trust = NO_TRUST) -> Path:
    """Resolve a path to a model file: itself, the model of a run directory, or the download of a remote file.

    Args:
        path: a file, a SavedModel folder, a run directory, or a remote path.
        trust: whether remote files may be downloaded.

    Raises:
        ModelError: no such file, or a folder that is neither a SavedModel nor a finished run.
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
    """Detect the format: `keras`, `h5`, `saved_model`, `tflite`, `onnx`, or `npz` for recorded outputs.

    Raises:
        ModelError: another format, or a file that cannot be read.
    """
    if path.is_dir():
        for part in (*(path / name for name in GRAPH_FILES), *path.glob("variables/*")):
            _refuse_pointer(part)
        return SAVED_MODEL
    _refuse_pointer(path)
    try:
        # Opening a pipe waits for a writer, and reading a device may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{path}: refused, not a regular file", hint=FORMATS_HINT)
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if head == _HDF5:
        return "h5"
    if head[4:] == _LITERT:
        return "tflite"
    # Zip readers start at the end of a file: one that begins differently could be two formats at once.
    members = _members(path) if head.startswith(_ZIP) else []
    if "config.json" in members:
        return "keras"
    if any(name.endswith(".npy") for name in members):
        return "npz"
    if len(head) > 2 and head[0] == 8 and head[1] in _ONNX_VERSIONS and head[2] in _ONNX_NEXT:
        return "onnx"
    known = path.suffix in MODEL_SUFFIXES.values()
    reason = f"not a {path.suffix} file" if known else "not a model that kd can open"
    if not head or (known and head.startswith(_ZIP) and not members):
        state = "the file is truncated" if head else "the file is empty"
        raise ModelError(f"{path}: {reason}: {state}", hint=COPY_HINT)
    if head.lstrip().startswith(b"<"):
        raise ModelError(f"{path}: a web page, not a model", hint="download the file itself, not its web page")
    raise ModelError(f"{path}: {reason}: damaged, or another format", hint=FORMATS_HINT)


def _refuse_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer, which stands in for a large file that was not fetched."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            with open(path, "rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    raise ModelError(f"{path}: a Git LFS pointer, not the file itself", hint="git lfs pull")
    except OSError:
        # The code that reads the file reports the error.
        return


def _is_saved_model(folder: Path) -> bool:
    return any((folder / name).exists() or (folder / name).is_symlink() for name in GRAPH_FILES)


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    # The zip reader raises any of these for a damaged file, which is then not an archive.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        return []


def read_keras_version(path: Path, form: str) -> str | None:
    """Read the version of Keras that wrote a `.keras` or `.h5` file; None where the file does not say.

    Args:
        path: a screened file.
        form: `keras` or `h5`.
    """
    import h5py

    try:
        if form == "keras":
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        with h5py.File(path, "r") as file:
            # Keras before version 2 wrote no version.
            version = file.attrs.get("keras_version", "1")
            return version.decode() if isinstance(version, bytes) else str(version)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None
