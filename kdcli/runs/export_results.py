"""Frozen records of exported files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path

LABELS_FILE, INTERFACE_FILE = "labels.txt", "input.json"


@dataclass(frozen=True)
class ExportInterface:
    """What somebody who uses the file must feed, and what comes back: an entry of `input.json`.

    Args:
        shape: of one example, without the batch axis.
        dtype: of the array that goes in.
        range: least and largest value, where the data says so.
        batch: the only batch size, or None for any.
        prepare: `inside` (raw examples go in) or `outside` (what the model itself takes).
        scale, resize, fit: how a raw example becomes what the model itself takes.
        quantization: `scale` and `zero_point` of an integer input: `scale * (q - zero_point)` is meant.
        output_kind: `logits`, `probabilities`, `sigmoid` or `values`.
        output_dtype: of the array that comes out.
        output_quantization: as `quantization`.
        classes: how many outputs.
    """

    shape: tuple[int, ...]
    dtype: str
    range: tuple[float, float] | None
    batch: int | None
    prepare: str
    scale: str | dict[str, Any] | None
    resize: tuple[int, int] | None
    fit: str | None
    quantization: dict[str, float] | None
    output_kind: str
    output_dtype: str
    output_quantization: dict[str, float] | None
    classes: int

    def to_json(self) -> dict[str, Any]:
        """The entry of `input.json`."""
        values = dict(vars(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class Artifact:
    """One exported file, measured beside the model that it was made from.

    Args:
        name: of the file or folder.
        format: `keras`, `saved-model`, `litert`, `onnx`.
        quantize: of `litert` only.
        path: where it is; None when it was not left behind.
        bytes: as shipped.
        input: what it takes.
        max_abs_diff: from the model's own outputs.
        agreement, accuracy: None where there is nothing to decide, or no labels.
        p50_ms: median of one request; None when nothing was timed.
    """

    name: str
    format: str
    quantize: str | None
    path: Path | None
    bytes: int
    input: ExportInterface
    max_abs_diff: float
    agreement: float | None = None
    accuracy: float | None = None
    p50_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """An entry of `artifacts`."""
        taken = self.input.to_json()
        return {
            "name": self.name,
            "format": self.format,
            "quantize": self.quantize,
            "path": relativize_path(self.path) if self.path else None,
            "bytes": self.bytes,
            "input": {name: taken[name] for name in ("shape", "dtype", "range", "batch")},
            "output": {"kind": self.input.output_kind, "dtype": self.input.output_dtype},
            "max_abs_diff": self.max_abs_diff,
            "agreement": self.agreement,
            "accuracy": self.accuracy,
            "p50_ms": self.p50_ms,
        }


@dataclass(frozen=True)
class ExportFailure:
    """A file that could not be written.

    Args:
        name: of the file or folder.
        format, quantize: as of an `Artifact`.
        message: what is wrong, one line that begins with the name.
        hint: the way on.
    """

    name: str
    format: str
    quantize: str | None
    message: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """An entry of `failures`."""
        return dict(vars(self))


@dataclass(frozen=True)
class ExportResult:
    """What an export left behind.

    Args:
        out: the folder; None when no file passed.
        model: the file that was exported.
        artifacts: in the order in which they were asked for, those that were not left behind included.
        gates: verdicts.
        split: that they were compared on; None without data.
        examples: how many.
        accuracy: of the model itself.
        failures: formats that could not be written, beside those that were.
    """

    out: Path | None
    model: Path
    artifacts: tuple[Artifact, ...]
    gates: tuple[GateResult, ...]
    split: str | None = None
    examples: int = 0
    accuracy: float | None = None
    failures: tuple[ExportFailure, ...] = ()

    @property
    def path(self) -> Path | None:
        """The only file that was left behind, or the folder of several."""
        left = [artifact.path for artifact in self.artifacts if artifact.path]
        return left[0] if len(left) == 1 else self.out

    def to_json(self) -> dict[str, Any]:
        """`kd.export/1`."""
        return {
            "schema": "kd.export/1",
            "out": relativize_path(self.out) if self.out else None,
            "model": relativize_path(self.model),
            "split": self.split,
            "examples": self.examples,
            "accuracy": self.accuracy,
            "artifacts": [artifact.to_json() for artifact in self.artifacts],
            "failures": [failure.to_json() for failure in self.failures],
            "gates": [gate.to_json() for gate in self.gates],
        }
