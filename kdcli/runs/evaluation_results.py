"""Frozen numbers of an evaluation, to JSON. What was not measured is None."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.latency_results import Ratio, Timing
from kdcli.runs.results import ClassQuality, Quality, relativize_path


@dataclass(frozen=True)
class EvaluatedModel:
    """One model on one split.

    Args:
        format: `keras`, `h5` or `tflite`.
        parameters, flops: None where they cannot be counted.
        latency: None when it was not timed.
        ratio: of its latency to the teacher's in the same runtime.
        no_ratio: why there is none beside a teacher that is timed.
        file_bytes: of the file with the state of an optimizer; `bytes` leaves that out.
        classes: of every class, when they were asked for.
    """

    path: Path
    format: str
    sha256: str
    parameters: int | None
    bytes: int
    quality: Quality
    flops: int | None = None
    latency: Timing | None = None
    ratio: Ratio | None = None
    no_ratio: str | None = None
    file_bytes: int | None = None
    classes: tuple[ClassQuality, ...] = ()

    @property
    def worst_class(self) -> ClassQuality | None:
        """The class with the lowest F1, None when classes were not asked for."""
        known = [(one.f1, number) for number, one in enumerate(self.classes) if one.f1 is not None]
        return self.classes[min(known)[1]] if known else None

    def to_json(self) -> dict[str, Any]:
        """An entry of `models` in `kd.evaluate/1`."""
        document: dict[str, Any] = {"path": relativize_path(self.path)}
        for name in ("format", "sha256", "parameters", "bytes", "flops"):
            document[name] = getattr(self, name)
        if self.file_bytes not in (None, self.bytes):
            document["file_bytes"] = self.file_bytes
        quality = self.quality
        document |= {"examples": quality.examples, "task": quality.task}
        document |= {"accuracy": quality.accuracy, "low": quality.low, "high": quality.high}
        document |= {key: value for key, value in quality.to_json().items() if key not in document}
        document |= {"agreement": quality.agreement, "latency": self._latency()}
        if self.classes:
            worst = self.worst_class
            document["worst_class"] = worst.name if worst else None
            document["classes"] = [asdict(one) for one in self.classes]
        return document

    def _latency(self) -> dict[str, Any] | None:
        if self.latency is None:
            return None
        ratio = self.ratio.to_json() if self.ratio else None
        document = {**self.latency.to_json(), "ratio": ratio}
        return document if self.no_ratio is None else {**document, "no_ratio": self.no_ratio}


@dataclass(frozen=True)
class Evaluation:
    """Several models on one split.

    Args:
        gates: every gate on every model.
        noise_floor: the ratio of a model to itself, when models were timed.
        doubts: why the times may not hold.
    """

    split: str
    models: tuple[EvaluatedModel, ...]
    gates: tuple[GateResult, ...] = ()
    noise_floor: Ratio | None = None
    doubts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`kd.evaluate/1`."""
        document: dict[str, Any] = {"schema": "kd.evaluate/1", "split": self.split}
        document["models"] = [model.to_json() for model in self.models]
        if self.noise_floor is not None:
            document["latency_noise_floor"] = self.noise_floor.to_json()
            document["latency_doubts"] = list(self.doubts)
        return {**document, "gates": [gate.to_json() for gate in self.gates]}
