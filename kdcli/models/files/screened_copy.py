"""Private copies of model files: what is screened is what is opened, even if the original changes in between."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdcli.errors import ModelError, UsageError
from kdcli.events import Note, OnEvent
from kdcli.models.custom_code import list_registered_names
from kdcli.models.files.format import GRAPH_FILES, MODEL_FORMATS, MODEL_SUFFIXES, SAVED_MODEL, detect_format
from kdcli.models.saved_model.signatures import choose_signature
from kdcli.runs import writer
from kdcli.runs.run_environment import hash_model
from kdcli.screening.keras.archive import screen_keras
from kdcli.screening.keras.hdf5 import screen_hdf5, screen_weights
from kdcli.screening.litert import screen_litert
from kdcli.screening.onnx import screen_onnx
from kdcli.screening.saved_model.facts import describe_saved_model
from kdcli.screening.saved_model.screen import screen_saved_model
from kdcli.screening.verdict import NO_TRUST, Trust, Verdict

# A SavedModel has a few files in two folders; its assets may be more.
_MAX_DEPTH, _MAX_FILES = 20, 100_000
# Protocol buffers, such as graphs, cannot be larger than 2 GiB; the other files at the top are small.
_MAX_GRAPH_BYTES, _MAX_OTHER_BYTES = 2**31 - 1, 100_000_000


@contextmanager
def make_private_copy(path: Path, form: str) -> Iterator[Path]:
    """Make a copy that only this user can read or change, with the suffix of its format, for the block.

    Args:
        path: a file, or the folder of a SavedModel; links inside a folder are copied as links.
        form: from `detect_format`.

    Raises:
        ModelError: the path cannot be read, or a folder contains something other than files, folders and links.
        StorageError: not enough space for the copy.
    """
    with ExitStack() as resources:
        size = None
        try:
            entries = _list_entries(path)
            _refuse_large_messages(path, form)
            size = sum(entry.lstat().st_size for entry in entries)
            folder = resources.enter_context(writer.scratch_folder(size))
            if form == SAVED_MODEL:
                copied = folder / "model"
                _copy_folder(entries, copied)
            else:
                copied = folder / f"model{MODEL_SUFFIXES[form]}"
                _copy_file(path, copied)
        except (PermissionError, FileNotFoundError) as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        except OSError as error:
            raise writer.storage_error(path, error, needed=size, retry="run the same command again") from error
        yield copied


def _list_entries(path: Path) -> list[Path]:
    """List the path and everything below it, folders before their content; links are not followed."""
    found, open_folders = [path], [path] if path.is_dir() else []
    while open_folders:
        folder = open_folders.pop()
        if len(folder.relative_to(path).parts) > _MAX_DEPTH:
            raise ModelError(f"{path}: refused, folders are nested more than {_MAX_DEPTH} deep")
        for entry in sorted(folder.iterdir()):
            found.append(entry)
            if len(found) > _MAX_FILES:
                raise ModelError(f"{path}: refused, it contains more than {_MAX_FILES:,} files")
            if entry.is_dir() and not entry.is_symlink():
                open_folders.append(entry)
    return found


def _refuse_large_messages(path: Path, form: str) -> None:
    """Refuse a file too large to be a message before it is copied; a sparse file costs its author nothing."""
    for entry in path.iterdir() if form == SAVED_MODEL else ():
        found, limit = entry.lstat(), _MAX_GRAPH_BYTES if entry.name in GRAPH_FILES else _MAX_OTHER_BYTES
        if stat.S_ISREG(found.st_mode) and found.st_size > limit:
            raise ModelError(
                f"{path}: refused, size: {entry.name} has {found.st_size:,} bytes (at most {limit:,} are allowed)"
            )


def _copy_folder(entries: list[Path], target: Path) -> None:
    source = entries[0]
    target.mkdir(mode=0o700)
    for entry in entries[1:]:
        mode, placed = entry.lstat().st_mode, target / entry.relative_to(source)
        if stat.S_ISLNK(mode):
            placed.symlink_to(os.readlink(entry))
        elif stat.S_ISDIR(mode):
            placed.mkdir(mode=0o700)
        elif stat.S_ISREG(mode):
            _copy_file(entry, placed)
        else:
            raise ModelError(f"{source}: refused, {entry.name} is neither a file nor a folder")


def _copy_file(source: Path, target: Path) -> None:
    # Opening a pipe waits for a writer.
    if not stat.S_ISREG(source.stat().st_mode):
        raise ModelError(f"{source}: refused, not a regular file")
    shutil.copyfile(source, target)
    target.chmod(0o600)


@dataclass(frozen=True, kw_only=True)
class ScreenedFile:
    """A private copy of a model file with the findings of its screening.

    Args:
        copied: path of the copy, which exists during the block of `copy_and_screen`.
        path: path of the original.
        format: from `detect_format`.
        sha256: hash of the copy.
        verdict: findings of the screening.
        trusted: whether the user trusts the file, so that findings do not refuse it.
    """

    copied: Path
    path: Path
    format: str
    sha256: str
    verdict: Verdict
    trusted: bool


@contextmanager
def copy_and_screen(
    path: Path, *, trust: Trust = NO_TRUST, signature: str | None = None, weights: bool = False
) -> Iterator[ScreenedFile]:
    """Copy a model file to a private folder and screen the copy; the copy is deleted after the block.

    Args:
        path: a file or a SavedModel folder.
        trust: what the file may do.
        signature: the signature that will be opened; None: all are screened.
        weights: whether only the weights of a `.h5` file will be read.

    Raises:
        ModelError: not a model file, or it cannot be read.
    """
    form = detect_format(path)
    if form not in MODEL_FORMATS:
        raise ModelError(
            f"{path}: an .npz file holds data or recorded outputs, not a model",
            hint=f"recorded outputs can be a teacher: kd distill --teacher {path}",
        )
    with make_private_copy(path, form) as copied:
        verdict = _screen(copied, form, trust=trust, signature=signature, weights=weights)
        yield ScreenedFile(
            copied=copied,
            path=path,
            format=form,
            sha256=hash_model(copied),
            verdict=verdict,
            trusted=trust.model,
        )


def admit(file: ScreenedFile, signature: str | None, *, on_event: OnEvent) -> None:
    """Refuse a file that the screening refuses; if the user trusts it, warn of each finding instead.

    Args:
        file: from `copy_and_screen`.
        signature: the signature that the user chose.
        on_event: receives the warnings.

    Raises:
        ModelError: refused.
        UsageError: one of several signatures has to be chosen first.
    """
    if file.verdict.refused:
        # Without a choice all signatures were screened, and the finding may be about another one.
        require_signature(file, signature)
    if not file.trusted:
        file.verdict.require_safe(file.path)
    for finding in file.verdict.refused:
        on_event(Note(f"{file.path} is opened because of --trust-model; screening found {finding}", warning=True))


def require_signature(file: ScreenedFile, option: str | None) -> None:
    """Refuse a signature that a SavedModel does not have, or no choice where it has several.

    Raises:
        UsageError: with the names of the signatures.
    """
    if file.format != SAVED_MODEL:
        return
    facts = describe_saved_model(file.copied)
    names = [signature.name for signature in facts.signatures] if facts else []
    if not names:
        # A file that cannot be read is refused for that reason.
        return
    try:
        choose_signature(names, option)
    except UsageError as error:
        raise type(error)(f"{file.path}: {error.message}", hint=error.hint) from None


def _screen(copied: Path, form: str, *, trust: Trust, signature: str | None, weights: bool) -> Verdict:
    if form == "keras":
        return screen_keras(copied, custom_names=list_registered_names())
    if form == "h5":
        return screen_weights(copied) if weights else screen_hdf5(copied, custom_names=list_registered_names())
    if form == SAVED_MODEL:
        return screen_saved_model(copied, signature=signature, tables=trust.tables)
    return screen_litert(copied) if form == "tflite" else screen_onnx(copied)
