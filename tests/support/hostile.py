"""The record of a hostile SavedModel; its payload only writes a marker file, which must never appear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """A hostile SavedModel.

    Args:
        build: writes the model to a folder; the second argument is the marker that its payload writes.
        rule: the rule that must refuse it.
        signature: the requested signature.
        tables: whether lookup tables are allowed.
        proof: when its payload runs without screening: at `load` or at `call`; None if it has no visible effect.
    """

    build: Callable[[Path, Path], None]
    rule: str = "operation"
    signature: str | None = None
    tables: bool = False
    proof: str | None = None

    @property
    def name(self) -> str:
        return self.build.__name__
