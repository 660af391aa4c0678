"""Where examples come from: one file for each kind."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from kdcli.sources.arrays import Arrays
from kdcli.sources.digits import Digits
from kdcli.sources.keras import DATASETS, KerasDataset

_Kinds = Annotated[Digits | KerasDataset | Arrays, Field(discriminator="kind")]


def named(text: str) -> dict[str, Any]:
    """The recipe entry that a short name or a path stands for."""
    if text == "digits":
        return {"kind": "digits"}
    if text in DATASETS:
        return {"kind": "keras", "name": text}
    if text.endswith(".npz"):
        return {"kind": "arrays", "path": text}
    known = ", ".join(["digits", *DATASETS])
    raise ValueError(f"{text!r} is no data: expected {known}, or a path that ends in .npz")


def _from_text(value: Any) -> Any:
    return named(value) if isinstance(value, str) else value


AnySource = Annotated[_Kinds, BeforeValidator(_from_text)]

__all__ = ["AnySource", "Arrays", "Digits", "KerasDataset", "named"]
