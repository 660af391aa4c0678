"""Git LFS pointers: small text files that stand for large ones which were not fetched."""

from __future__ import annotations

from pathlib import Path

from kdcli.errors import KdError

POINTER_PREFIX = b"version https://git-lfs.github.com/spec/"
POINTER_MESSAGE = "a Git LFS pointer, the file itself was not fetched"
POINTER_HINT = "git lfs pull fetches it"


def refuse_pointer(path: Path, error: type[KdError]) -> None:
    """Refuse a file that is a Git LFS pointer.

    Raises:
        KdError: of the class that is given.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(POINTER_PREFIX))
    except OSError:
        return
    if start == POINTER_PREFIX:
        raise error(f"{path}: {POINTER_MESSAGE}", hint=POINTER_HINT)
