"""kd recipes cp: a shipped recipe as a file of one's own."""

from __future__ import annotations

from pathlib import Path

from kdcli.errors import StorageError, UsageError
from kdcli.recipe.reader import read_shipped_recipe
from kdcli.runs.writer import write_text


def copy_recipe(name: str, destination: Path | None, *, overwrite: bool = False) -> Path:
    """Write a shipped recipe to a file or into a folder; gives the path.

    Raises:
        UsageError: an unknown name, or a file that is there already.
        StorageError: it cannot be written.
    """
    text = read_shipped_recipe(name)
    target = destination or Path(f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already", hint="another DEST, or --overwrite")
    try:
        write_text(target, text)
    except StorageError as error:
        raise StorageError(error.message, hint="another DEST", location=error.location) from error
    return target
