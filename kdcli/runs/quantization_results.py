"""The result of quantization-aware training: the model and its 8-bit files side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """A finished quantization-aware training.

    Args:
        run: its directory.
        document: `kd.quantize/1`, with paths relative to the directory.
        gates: judged on the file.
    """

    run: Path
    document: dict[str, Any]
    gates: tuple[GateResult, ...] = ()

    @property
    def model_path(self) -> Path:
        """The 8-bit file."""
        return self.run / self.document["path"]

    def to_json(self) -> dict[str, Any]:
        """`kd.quantize/1`, with paths relative to the current folder."""
        return {
            **self.document,
            "run": relativize_path(self.run),
            "path": relativize_path(self.model_path),
            "student": relativize_path(self.run / self.document["student"]),
            "gates": [gate.to_json() for gate in self.gates],
        }
