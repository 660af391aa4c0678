"""A model that is a file."""

from __future__ import annotations

from typing import Literal

from kdcli.spec import ModelSource


class File(ModelSource):
    """A saved model; `path` is relative to the current folder.

    Args:
        path: a `.keras` or `.h5` file.
    """

    kind: Literal["file"] = "file"
    path: str
