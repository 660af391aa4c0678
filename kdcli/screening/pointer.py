"""Git LFS pointers: small text files that stand in for large files that were not fetched."""

from __future__ import annotations

from pathlib import Path

from kdcli.errors import KdError

POINTER_PREFIX = b"version https://git-lfs.github.com/spec/"
POINTER_MESSAGE = "a Git LFS pointer, the file itself was not fetched"
POINTER_HINT = "git lfs pull fetches it"


def refuse_pointer(path: Path, error: type[KdError]) -> None:
    """Raise an error if a file is a Git LFS pointer.

    Args:
        path: the file; nothing happens if it cannot be read.
        error: class of the error to raise.

    Raises:
        KdError: of the class `error`.
    """
    try:
        with open(path, "rb") as file:
            prefix = file.read(len(POINTER_PREFIX))
    except OSError:
        return
    if prefix == POINTER_PREFIX:
        raise error(f"{path}: {POINTER_MESSAGE}", hint=POINTER_HINT)
