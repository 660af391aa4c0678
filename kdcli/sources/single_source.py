"""A single source: its kinds, and the texts that stand for them."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from kdcli.custom_kinds import OrCustom
from kdcli.errors import did_you_mean
from kdcli.sources.arrays import Arrays
from kdcli.sources.digits import Digits
from kdcli.sources.images import Images
from kdcli.sources.keras import DATASETS, KerasDataset
from kdcli.sources.table import Table
from kdcli.sources.tfrecord import TfRecord
from kdcli.spec import Source

SourceKind = Digits | KerasDataset | Arrays | Images | TfRecord | Table
_SUFFIXES = {".npz": "arrays", ".tfrecord": "tfrecord", ".csv": "table", ".parquet": "table"}


def parse_source(text: str) -> dict[str, Any]:
    """Parse a short name or a path into a recipe entry.

    Raises:
        ValueError: the text is not a known data set or an existing path.
    """
    if text == "digits":
        return {"kind": "digits"}
    if text in DATASETS:
        return {"kind": "keras", "name": text}
    # Unlike `Path.is_dir`, `os.path.isdir` accepts any text.
    if os.path.isdir(text):
        return {"kind": "tfrecord" if _contains_records(text) else "images", "path": text}
    for suffix, kind in _SUFFIXES.items():
        if text.lower().endswith(suffix):
            return {"kind": kind, "path": text}
    known = ["digits", *DATASETS]
    raise ValueError(
        f"unknown data set {text!r}; {did_you_mean(text, known)}expected {', '.join(known)}, an existing folder "
        f"of images or .tfrecord files, or a path that ends in {', '.join(_SUFFIXES)}"
    )


def _contains_records(folder: str) -> bool:
    try:
        return any(name.endswith(".tfrecord") for name in os.listdir(folder))
    except OSError:
        return False


def expand_text(value: Any) -> Any:
    """Expand a text to the entry that it stands for; return anything else unchanged."""
    return parse_source(value) if isinstance(value, str) else value


SingleSource = Annotated[
    Annotated[SourceKind, Field(discriminator="kind")],
    OrCustom(Source),
    SerializeAsAny(),
    BeforeValidator(expand_text),
]
