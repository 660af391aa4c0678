"""The recipes that come with kd."""

from __future__ import annotations

from pathlib import Path


def _folder() -> Path:
    # In a wheel the recipes lie beside this file; in a checkout at the top of the repository.
    installed = Path(__file__).parent / "shipped"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def list_shipped_recipes() -> list[str]:
    """The names that `--recipe` accepts, in order."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_shipped_text(name: str) -> str:
    """A shipped recipe as it is written, comments included."""
    return (_folder() / f"{name}.yaml").read_text("utf-8")
