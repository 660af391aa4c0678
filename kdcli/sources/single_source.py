"""One source: the kinds, and the texts that stand for them."""

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
SOURCE_SUFFIXES = {".npz": "arrays", ".tfrecord": "tfrecord", ".csv": "table", ".parquet": "table"}


def named(text: str) -> dict[str, Any]:
    """The recipe entry that a short name or a path stands for."""
    if text == "digits":
        return {"kind": "digits"}
    if text in DATASETS:
        return {"kind": "keras", "name": text}
    for suffix, kind in SOURCE_SUFFIXES.items():
        if text.lower().endswith(suffix) and not os.path.isdir(text):
            return {"kind": kind, "path": text}
    # Unlike Path.is_dir, this takes any text for what it is.
    if os.path.isdir(text):
        return {"kind": "tfrecord" if _holds_records(text) else "images", "path": text}
    known = ["digits", *DATASETS]
    raise ValueError(
        f"{text!r} is no data: {did_you_mean(text, known)}expected {', '.join(known)}, a folder of pictures or "
        f".tfrecord files that exists, or a path that ends in {', '.join(SOURCE_SUFFIXES)}"
    )


def _holds_records(folder: str) -> bool:
    try:
        return any(name.endswith(".tfrecord") for name in os.listdir(folder))
    except OSError:
        return False


def expand_text(value: Any) -> Any:
    """A text as the entry that it stands for; everything else as it is."""
    return named(value) if isinstance(value, str) else value


SingleSource = Annotated[
    Annotated[SourceKind, Field(discriminator="kind")],
    OrCustom(Source),
    SerializeAsAny(),
    BeforeValidator(expand_text),
]
