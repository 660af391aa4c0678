"""The frozen results of an evaluation and their JSON. Values that were not measured are None."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.latency_results import ColdStart, Ratio, Timing
from kdcli.runs.results import ClassQuality, Quality, relativize_path


@dataclass(frozen=True)
class EvaluatedModel:
    """One model on one split.

    Args:
        format: `keras`, `h5` or `tflite`.
        parameters, flops: None if they cannot be counted.
        latency: None if it was not measured.
        ratio: ratio of its latency to the teacher's in the same runtime.
        no_ratio: why there is no ratio although the teacher was measured.
        file_bytes: size of a file that includes optimizer state; `bytes` excludes that state.
        classes: quality of each class, if requested.
        cold: its cold start, if requested.
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
    cold: ColdStart | None = None

    @property
    def worst_class(self) -> ClassQuality | None:
        """The class with the lowest F1; None if classes were not requested."""
        scores = [(item.f1, number) for number, item in enumerate(self.classes) if item.f1 is not None]
        return self.classes[min(scores)[1]] if scores else None

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
        document |= {"agreement": quality.agreement, "latency": self._latency_to_json()}
        if self.cold is not None:
            document["cold"] = {name: round(value, 3) for name, value in asdict(self.cold).items()}
        if self.classes:
            worst = self.worst_class
            document["worst_class"] = worst.name if worst else None
            document["classes"] = [asdict(item) for item in self.classes]
        return document

    def _latency_to_json(self) -> dict[str, Any] | None:
        if self.latency is None:
            return None
        ratio = self.ratio.to_json() if self.ratio else None
        document = {**self.latency.to_json(), "ratio": ratio}
        return document if self.no_ratio is None else {**document, "no_ratio": self.no_ratio}


@dataclass(frozen=True)
class Evaluation:
    """Several models on one split.

    Args:
        gates: results of every gate for every model.
        noise_floor: latency ratio of a model to itself, if latency was measured.
        doubts: why the latency may be unreliable.
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
