"""The frozen result of `kd shrink` and its JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import Quality, relativize_path

# Why the channels of an output layer stay.
OUTPUT_REASON = "it is an output of the model"


@dataclass(frozen=True, kw_only=True)
class ShrunkLayer:
    """The width of one layer.

    Args:
        name: of the layer, with its path; attention has an entry for its heads.
        before, after: number of channels.
        frozen: whether no channel of it can be removed.
        reason: why channels of it cannot be removed; None where all can.
    """

    name: str
    before: int
    after: int
    frozen: bool
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class SizedModel:
    """The cost and the quality of the teacher or the student. Values that were not measured are None.

    Args:
        parameters: number of weights.
        bytes: of its weights, by data type.
        exported: bytes of the file that `--measure-as` names.
        flops: floating point operations for one example.
        p50_ms: median latency of that file at batch 1, in milliseconds.
        quality: on the examples, before any training of the student.
    """

    parameters: int
    bytes: dict[str, int]
    exported: int | None = None
    flops: int | None = None
    p50_ms: float | None = None
    quality: Quality | None = None

    def to_json(self) -> dict[str, Any]:
        """`teacher` or `student` of `kd.shrink/1`."""
        quality = self.quality
        metrics = {}
        if quality is not None:
            interval = {"accuracy": quality.accuracy, "low": quality.low, "high": quality.high}
            metrics = {"examples": quality.examples, **quality.to_json(), **interval}
            metrics["agreement"] = quality.agreement
        return {
            "parameters": self.parameters,
            "bytes": self.bytes,
            "exported_bytes": self.exported,
            "flops": self.flops,
            "latency": None if self.p50_ms is None else {"p50_ms": self.p50_ms},
            "accuracy": None,
            **metrics,
        }


@dataclass(frozen=True, kw_only=True)
class ShrinkResult:
    """The result of `kd shrink`.

    Args:
        path: of the written file; None after a dry run.
        source: the teacher's file or run.
        model: the student, a `keras.Model`.
        teacher, student: before and after.
        keep: fraction of the channels that stayed.
        importance: the criterion that ranked the channels.
        start: `inherited` or `fresh`.
        measured_as: the format in which size and latency were measured, such as `litert/int8`.
        runtime: that ran it, with its threads; None if nothing was timed.
        split: of the accuracy; None without data.
        layers: the widths of the layers that make channels.
        blocks: the residual blocks that can be left out, with their change of the input, and whether they were.
        low_rank: the Dense layers that were split, with the rank and the energy that stays.
        findings: sentences on what was noticed.
        gates: results of all gates.
    """

    path: Path | None
    source: Path
    model: Any
    teacher: SizedModel
    student: SizedModel
    keep: float
    importance: str
    start: str
    measured_as: str
    runtime: str | None
    split: str | None
    layers: tuple[ShrunkLayer, ...]
    blocks: tuple[dict[str, Any], ...] = ()
    low_rank: tuple[dict[str, Any], ...] = ()
    findings: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`kd.shrink/1`, or `kd.plan/1` after a dry run."""
        return {
            "schema": "kd.shrink/1" if self.path else "kd.plan/1",
            "model": relativize_path(self.path) if self.path else None,
            "teacher": {"path": relativize_path(self.source), **self.teacher.to_json()},
            "student": self.student.to_json(),
            "keep": self.keep,
            "importance": self.importance,
            "start": self.start,
            "measured_as": self.measured_as,
            "runtime": self.runtime,
            "split": self.split,
            "layers": [asdict(layer) for layer in self.layers],
            "blocks": list(self.blocks),
            "low_rank": list(self.low_rank),
            "findings": list(self.findings),
            "gates": [gate.to_json() for gate in self.gates],
        }
