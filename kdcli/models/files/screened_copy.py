"""A private copy of a model: what was screened is what is opened, whatever happens to the original meanwhile."""

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
from kdcli.runs.records import hash_model
from kdcli.screening.keras.archive import screen_keras
from kdcli.screening.keras.hdf5 import screen_hdf5, screen_weights
from kdcli.screening.litert import screen_litert
from kdcli.screening.onnx import screen_onnx
from kdcli.screening.saved_model.facts import describe_saved_model
from kdcli.screening.saved_model.screen import screen_saved_model
from kdcli.screening.verdict import NO_TRUST, Trust, Verdict

# A SavedModel has a handful of files in two folders; its assets may be more.
_MAX_DEPTH, _MAX_FILES = 20, 100_000
# No graph is larger, and nothing that lies beside it.
MOST_GRAPH, MOST_BESIDE = 2**31 - 1, 100_000_000


@contextmanager
def make_private_copy(path: Path, form: str) -> Iterator[Path]:
    """A copy that only this user can read or change, under the name that its content asks for; gone afterwards.

    Args:
        path: a file, or the folder of a SavedModel; links inside a folder are copied as links.
        form: from `model_format`.

    Raises:
        ModelError: it cannot be read, or a folder holds what is neither file, folder nor link.
        StorageError: there is no room for the copy.
    """
    with ExitStack() as kept:
        size = None
        try:
            entries = _entries(path)
            _refuse_large_messages(path, form)
            size = sum(entry.lstat().st_size for entry in entries)
            folder = kept.enter_context(writer.scratch_folder(size))
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


def _entries(path: Path) -> list[Path]:
    """The path and everything below it, folders before what is in them; links are not followed."""
    found, open_folders = [path], [path] if path.is_dir() else []
    while open_folders:
        folder = open_folders.pop()
        if len(folder.relative_to(path).parts) > _MAX_DEPTH:
            raise ModelError(f"{path}: refused, its folders are nested more than {_MAX_DEPTH} deep")
        for entry in sorted(folder.iterdir()):
            found.append(entry)
            if len(found) > _MAX_FILES:
                raise ModelError(f"{path}: refused, it holds more than {_MAX_FILES} files")
            if entry.is_dir() and not entry.is_symlink():
                open_folders.append(entry)
    return found


def _refuse_large_messages(path: Path, form: str) -> None:
    """Refuse what no message can be before it is copied: a file with holes costs its writer nothing."""
    for entry in path.iterdir() if form == SAVED_MODEL else ():
        found, most = entry.lstat(), MOST_GRAPH if entry.name in GRAPH_FILES else MOST_BESIDE
        if stat.S_ISREG(found.st_mode) and found.st_size > most:
            raise ModelError(f"{path}: refused, size: {entry.name} has {found.st_size} bytes, {most} are the most")


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
    # Opening a pipe waits for somebody who writes to it.
    if not stat.S_ISREG(source.stat().st_mode):
        raise ModelError(f"{source}: refused, it is no regular file")
    shutil.copyfile(source, target)
    target.chmod(0o600)


@dataclass(frozen=True)
class ScreenedFile:
    """A private copy of a model file, with what screening found in it.

    Args:
        copied: lies there as long as the `with` block of `screened_copy` lasts.
        path, format, sha256, verdict: as in `OpenedFile`.
        trusted: whether it may do whatever it wants.
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
    """Copy a model file to where nobody else can change it, and screen the copy.

    Args:
        path: a file or a SavedModel folder.
        trust: what it may do.
        signature: which one is going to be opened.
        weights: whether only the weights of a `.h5` file are going to be read.

    Raises:
        ModelError: no model file, or it cannot be read.
    """
    form = detect_format(path)
    if form not in MODEL_FORMATS:
        raise ModelError(
            f"{path}: an .npz file holds data or recorded answers, not a model",
            hint=f"recorded answers can teach: kd distill --teacher {path}",
        )
    with make_private_copy(path, form) as copied:
        verdict = _screen(copied, form, trust=trust, signature=signature, weights=weights)
        yield ScreenedFile(copied, path, form, hash_model(copied), verdict, trust.model)


def admit(file: ScreenedFile, signature: str | None, *, on_event: OnEvent) -> None:
    """Refuse what screening refuses, unless the user trusts the file: then each finding is a warning.

    Raises:
        ModelError: refused.
        UsageError: one of several signatures has to be chosen first.
    """
    if file.verdict.refused:
        # Without a choice every signature was screened: which one is meant comes first.
        require_signature(file, signature)
    if not file.trusted:
        file.verdict.require_safe(file.path)
    for finding in file.verdict.refused:
        on_event(Note(f"{file.path} is opened because of --trust-model, although {finding}", warning=True))


def require_signature(file: ScreenedFile, wanted: str | None) -> None:
    """Refuse a choice of signature that a SavedModel does not offer, or that has to be made.

    Raises:
        UsageError: with the names.
    """
    if file.format != SAVED_MODEL:
        return
    facts = describe_saved_model(file.copied)
    names = [signature.name for signature in facts.signatures] if facts else []
    if not names:
        # What cannot be read is refused for that.
        return
    try:
        choose_signature(names, wanted)
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
