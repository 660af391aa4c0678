"""The recipes that are shipped with kd."""

from __future__ import annotations

from pathlib import Path

from kdcli.errors import UsageError, did_you_mean


def list_shipped_recipes() -> list[str]:
    """List the names that `--recipe` accepts, sorted."""
    return sorted(path.stem for path in _find_folder().glob("*.yaml"))


def read_shipped_recipe(name: str) -> str:
    """Read a shipped recipe as it is written, comments included.

    Raises:
        UsageError: there is no shipped recipe of that name.
    """
    names = list_shipped_recipes()
    if name in names:
        return read_shipped_text(name)
    raise UsageError(
        f"unknown recipe {name!r}; {did_you_mean(name, names)}shipped: {', '.join(names)}",
        hint="kd recipes ls, or a path that contains / or ends in .yaml",
    )


def read_shipped_text(name: str) -> str:
    """Read a recipe that is known to be shipped."""
    return (_find_folder() / f"{name}.yaml").read_text("utf-8")


def _find_folder() -> Path:
    # A wheel contains the recipes in this package; a checkout has them at the top of the repository.
    installed = Path(__file__).parent / "shipped"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


DEFAULT_RECIPE = "soft-targets"
