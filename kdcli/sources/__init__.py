"""Sources of examples: one file for each kind."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from kdcli.custom_kinds import OrCustom
from kdcli.sources.arrays import Arrays
from kdcli.sources.digits import Digits
from kdcli.sources.images import Images
from kdcli.sources.keras import KerasDataset
from kdcli.sources.single_source import SourceKind, expand_text, parse_source
from kdcli.sources.splits import SplitSources
from kdcli.sources.table import Table
from kdcli.sources.tfrecord import TfRecord
from kdcli.spec import Source


def _expand_short_form(value: Any) -> Any:
    """Expand a text, or `{train: D, ...}` without a kind, to the entry that it stands for."""
    if isinstance(value, dict) and "kind" not in value and "train" in value:
        return {"kind": "splits", **value}
    return expand_text(value)


AnySource = Annotated[
    Annotated[SourceKind | SplitSources, Field(discriminator="kind")],
    OrCustom(Source),
    SerializeAsAny(),
    BeforeValidator(_expand_short_form),
]

__all__ = [
    "AnySource",
    "Arrays",
    "Digits",
    "Images",
    "KerasDataset",
    "SplitSources",
    "Table",
    "TfRecord",
    "parse_source",
]
