"""The frozen result of `kd predict` and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.results import relativize_path


@dataclass(frozen=True)
class PredictionResult:
    """A file of predictions: its path, examples, task and model."""

    path: Path
    split: str
    examples: int
    task: str
    model: Path

    def to_json(self) -> dict[str, Any]:
        """`kd.predict/1`."""
        return {
            "schema": "kd.predict/1",
            "path": relativize_path(self.path),
            "split": self.split,
            "examples": self.examples,
            "task": self.task,
            "model": relativize_path(self.model),
        }
