"""A model from a file."""

from __future__ import annotations

from typing import Literal

from kdcli.spec import ModelSource


class File(ModelSource):
    """A saved model; `path` is relative to the current folder.

    Args:
        path: path of a model file, a SavedModel folder or a run directory.
    """

    kind: Literal["file"] = "file"
    path: str
