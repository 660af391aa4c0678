"""Models in the cache that were exported in order to be timed: a file each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli.cache.checksummed_json import compute_fingerprint
from kdcli.cache.folder import EXPORTS_FOLDER, count_allowed_bytes, explain_unusable
from kdcli.errors import StorageError
from kdcli.runs import writer

# Characters of the fingerprint in a file's name.
_NAME = 32


def export_path(folder: Path, components: Mapping[str, Any], suffix: str) -> Path:
    """Where the file that follows from some components is, or would be.

    Args:
        folder: the cache's.
        components: names with text or numbers.
        suffix: of the file's name, such as `.tflite`.
    """
    return folder / EXPORTS_FOLDER / f"{compute_fingerprint(components)[:_NAME]}{suffix}"


def store_export(folder: Path, path: Path, file: Path) -> Path:
    """Copy a file to its place in the cache; gives where it is then, which is where it was if there is no room."""
    try:
        if explain_unusable(folder) is not None or count_allowed_bytes(folder, None) < file.stat().st_size:
            return file
        writer.make_folder(path.parent)
        writer.write_bytes(path, file.read_bytes())
    except (OSError, StorageError):
        # A cache saves time; without it the file in the scratch folder does.
        return file
    return path


def remove_exports(folder: Path) -> int:
    """Remove all of them; gives the freed bytes.

    Raises:
        StorageError: one cannot be removed.
    """
    freed = 0
    for path in sorted((folder / EXPORTS_FOLDER).glob("*.*")):
        if len(path.stem) == _NAME and path.is_file():
            freed += path.stat().st_size
            writer.remove(path)
    return freed
