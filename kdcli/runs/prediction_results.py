"""A file of answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.results import relative


@dataclass(frozen=True)
class Prediction:
    """What was written, about which examples, by which model."""

    path: Path
    split: str
    examples: int
    task: str
    model: Path

    def to_json(self) -> dict[str, Any]:
        """`kd.predict/1`."""
        return {
            "schema": "kd.predict/1",
            "path": relative(self.path),
            "split": self.split,
            "examples": self.examples,
            "task": self.task,
            "model": relative(self.model),
        }
