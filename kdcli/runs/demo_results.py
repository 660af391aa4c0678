"""The frozen results of `kd demo` and their JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.results import relativize_path


@dataclass(frozen=True)
class DemonstratedModel:
    """One row of the table.

    Args:
        accuracy: accuracy on the test split; for both students the mean over the seeds.
        smaller: size of the teacher's file divided by the size of this one.
        p50_ms: median latency of one request in the model's own runtime.
    """

    name: str
    path: Path
    runtime: str
    accuracy: float
    parameters: int | None
    bytes: int
    smaller: float
    p50_ms: float | None

    def to_json(self) -> dict[str, Any]:
        """An entry of `models`."""
        return {**asdict(self), "path": relativize_path(self.path)}


@dataclass(frozen=True)
class Demonstration:
    """The result of the demo on the embedded digits."""

    out: Path
    models: tuple[DemonstratedModel, ...]
    comparison: dict[str, Any]
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """`kd.demo/1`."""
        return {
            "schema": "kd.demo/1",
            "out": relativize_path(self.out),
            "models": [model.to_json() for model in self.models],
            "comparison": self.comparison,
            "seconds": self.seconds,
        }
