"""Hostile SavedModels for the tests: their payload is harmless, a marker file that must never appear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """A SavedModel that does what it should not.

    Args:
        build: writes it to a folder; its second argument is the path of the marker that its payload writes.
        rule: what it must be refused for.
        signature: the one that is asked for.
        tables: whether lookup tables are allowed.
        proof: when its payload really runs: at `load`, at `call`; None where nothing is to be seen.
    """

    build: Callable[[Path, Path], None]
    rule: str = "operation"
    signature: str | None = None
    tables: bool = False
    proof: str | None = None

    @property
    def name(self) -> str:
        return self.build.__name__
