"""Exported models in the cache: files that were made to measure latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli.cache.checksummed_json import compute_fingerprint
from kdcli.cache.folder import EXPORTS_FOLDER, count_allowed_bytes, explain_unusable
from kdcli.errors import StorageError
from kdcli.runs import writer

# Characters of the fingerprint in a file name.
_NAME_CHARACTERS = 32


def export_path(folder: Path, components: Mapping[str, Any], suffix: str) -> Path:
    """Return the path of the exported model with the given components; it may not exist.

    Args:
        folder: folder of the cache.
        components: text or numbers that determine the file, by name.
        suffix: ending of the file name, such as `.tflite`.
    """
    return folder / EXPORTS_FOLDER / f"{compute_fingerprint(components)[:_NAME_CHARACTERS]}{suffix}"


def store_export(folder: Path, path: Path, file: Path) -> Path:
    """Copy a file into the cache.

    Args:
        folder: folder of the cache.
        path: path in the cache.
        file: the file to copy.

    Returns:
        The path in the cache, or `file` if the cache has no room for it.
    """
    try:
        if explain_unusable(folder) is not None or count_allowed_bytes(folder, None) < file.stat().st_size:
            return file
        writer.make_folder(path.parent)
        writer.write_bytes(path, file.read_bytes())
    except (OSError, StorageError):
        # The cache only saves time; the file in the scratch folder works too.
        return file
    return path


def remove_exports(folder: Path) -> int:
    """Remove all exported models from a cache and return the number of bytes freed.

    Raises:
        StorageError: a file cannot be removed.
    """
    freed = 0
    for path in sorted((folder / EXPORTS_FOLDER).glob("*.*")):
        if len(path.stem) == _NAME_CHARACTERS and path.is_file():
            freed += path.stat().st_size
            writer.remove(path)
    return freed
