"""The result of `kd compress`, and its plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path


@dataclass(frozen=True, kw_only=True)
class Compression:
    """A finished search.

    Args:
        out: its directory.
        document: `kd.compress/1`, with paths relative to the directory.
        gates: every target and gate on the file.
    """

    out: Path
    document: dict[str, Any]
    gates: tuple[GateResult, ...]

    @property
    def is_met(self) -> bool:
        """Whether a file meets every target."""
        return bool(self.document["met"])

    @property
    def model_path(self) -> Path | None:
        """The file that meets the targets; None if there is none."""
        return self.out / self.document["picked"]["path"] if self.is_met else None

    def to_json(self) -> dict[str, Any]:
        """`kd.compress/1`, with paths relative to the current folder."""
        picked = self.document["picked"]
        path = relativize_path(self.out / picked["path"])
        artifacts = [
            {**one, "path": relativize_path(self.out / one["path"])} for one in self.document["artifacts"]
        ]
        return {
            **self.document,
            "out": relativize_path(self.out),
            "picked": {**picked, "path": path},
            "artifacts": artifacts,
            "gates": [
                {**one, "model": gate.model} for one, gate in zip(self.document["gates"], self.gates, strict=True)
            ],
        }


@dataclass(frozen=True, kw_only=True)
class CompressionPlan:
    """What a search will do.

    Args:
        teacher: its path, size and metric on the validation split.
        targets: the bounds.
        candidates: as in `kd.compress/1`.
        schedule: what is trained, for how long; with the estimated seconds.
        findings: sentences.
    """

    teacher: dict[str, Any]
    targets: dict[str, Any]
    candidates: tuple[dict[str, Any], ...]
    schedule: dict[str, Any]
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """`kd.plan/1`."""
        return {
            "schema": "kd.plan/1",
            "teacher": self.teacher,
            "targets": self.targets,
            "candidates": list(self.candidates),
            "schedule": self.schedule,
            "seconds": self.schedule["seconds"],
            "findings": list(self.findings),
        }
