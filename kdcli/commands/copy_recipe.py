"""kd recipes cp: copy a shipped recipe."""

from __future__ import annotations

from pathlib import Path

from kdcli.errors import StorageError, UsageError
from kdcli.recipe.reader import read_shipped_recipe
from kdcli.runs.writer import write_text


def copy_recipe(name: str, destination: Path | None, *, overwrite: bool = False) -> Path:
    """Write a shipped recipe to a file or into a folder, and return the path of the file.

    Args:
        name: name of the shipped recipe.
        destination: a file or a folder; `<name>.yaml` by default.
        overwrite: whether to replace an existing file.

    Raises:
        UsageError: the name is unknown, or the file exists.
        StorageError: the file cannot be written.
    """
    text = read_shipped_recipe(name)
    target = destination or Path(f"{name}.yaml")
    if target.is_dir():
        target = target / f"{name}.yaml"
    if target.exists() and not overwrite:
        raise UsageError(f"{target} already exists", hint="choose another DEST, or use --overwrite")
    try:
        write_text(target, text)
    except StorageError as error:
        raise StorageError(error.message, hint="choose another DEST", location=error.location) from error
    return target
