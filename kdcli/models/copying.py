"""A private copy of a model: what was screened is what is opened, whatever happens to the original meanwhile."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kdcli.errors import ModelError
from kdcli.models.formats import GRAPHS, SAVED_MODEL, SUFFIXES
from kdcli.runs import writer

# A SavedModel has a handful of files in two folders; its assets may be more.
DEEPEST, MOST = 20, 100_000
# No graph is larger, and nothing that lies beside it.
MOST_GRAPH, MOST_BESIDE = 2**31 - 1, 100_000_000


@contextmanager
def private_copy(path: Path, form: str) -> Iterator[Path]:
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
                copied = folder / f"model{SUFFIXES[form]}"
                _copy_file(path, copied)
        except (PermissionError, FileNotFoundError) as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        except OSError as error:
            raise writer.storage_error(path, error, needed=size, again="run the same command again") from error
        yield copied


def _entries(path: Path) -> list[Path]:
    """The path and everything below it, folders before what is in them; links are not followed."""
    found, open_folders = [path], [path] if path.is_dir() else []
    while open_folders:
        folder = open_folders.pop()
        if len(folder.relative_to(path).parts) > DEEPEST:
            raise ModelError(f"{path}: refused, its folders are nested more than {DEEPEST} deep")
        for entry in sorted(folder.iterdir()):
            found.append(entry)
            if len(found) > MOST:
                raise ModelError(f"{path}: refused, it holds more than {MOST} files")
            if entry.is_dir() and not entry.is_symlink():
                open_folders.append(entry)
    return found


def _refuse_large_messages(path: Path, form: str) -> None:
    """Refuse what no message can be before it is copied: a file with holes costs its writer nothing."""
    for entry in path.iterdir() if form == SAVED_MODEL else ():
        found, most = entry.lstat(), MOST_GRAPH if entry.name in GRAPHS else MOST_BESIDE
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
