"""The frozen results of a run and their JSON, without rendering. Values that were not measured are None."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult

# Metrics that every document has, in this order; those of some tasks only follow.
_COMMON_METRICS = ("accuracy", "loss", "top5", "ece", "balanced_accuracy", "examples")


def relativize_path(path: Path) -> str:
    """Return a path relative to the current folder, as documents show it."""
    return os.path.relpath(path)


@dataclass(frozen=True)
class Quality:
    """Quality of a model's outputs on one split; fractions, not percentages.

    Args:
        low, high: interval of the accuracy.
        loss: mean negative log-likelihood of the labels; mean squared error for regression.
        at_chance: whether the score is that of guessing.
    """

    task: str
    examples: int
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    loss: float | None = None
    top5: float | None = None
    ece: float | None = None
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    micro_f1: float | None = None
    mean_average_precision: float | None = None
    mae: float | None = None
    rmse: float | None = None
    r2: float | None = None
    psnr: float | None = None
    mean_iou: float | None = None
    agreement: float | None = None
    at_chance: bool | None = None

    def metric(self, name: str) -> float | None:
        """Return a metric by name."""
        return getattr(self, name)

    def to_validation(self) -> dict[str, Any]:
        """`validation` of `kd.run/1`: accuracy, loss, examples, and the main metric of the task."""
        keys = ["accuracy", "loss", "examples"]
        keys += [name for name in ("macro_f1", "rmse", "psnr", "mean_iou") if self.metric(name) is not None]
        return {name: getattr(self, name) for name in keys}

    def to_json(self) -> dict[str, Any]:
        """The keys of `kd.run/1`, then the further metrics of the task."""
        values = asdict(self)
        extra = [
            f.name for f in fields(self) if f.name not in (*_COMMON_METRICS, "task", "low", "high", "agreement")
        ]
        shown = {name: values[name] for name in _COMMON_METRICS}
        return {**shown, **{name: values[name] for name in extra if values[name] is not None}}


@dataclass(frozen=True)
class ClassQuality:
    """One class on one split.

    Args:
        examples: number of examples of the class; of pixels in a label map.
        precision, recall, f1: None if the class was never predicted, or never occurs.
        change: F1 minus that of the teacher.
    """

    name: str
    examples: int
    precision: float | None
    recall: float | None
    f1: float | None
    change: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a run will do, with every `auto` resolved.

    Args:
        student: None if a teacher is trained.
        student_formats: for each export format `yes`, or why the trained model cannot be exported to it.
    """

    settings: tuple[dict[str, Any], ...]
    teacher: dict[str, Any] | None
    student: dict[str, Any] | None
    pairs: tuple[dict[str, Any], ...]
    targets: dict[str, Any]
    data: dict[str, Any]
    steps: int
    epochs: int
    memory_bytes: int
    student_bytes: dict[str, int]
    student_formats: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    arms: tuple[dict[str, Any], ...] = ()
    stages: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`kd.plan/1`; `arms` only in a comparison, `stages` only if there are several."""
        values = asdict(self)
        for name in ("arms", "stages"):
            if not values[name]:
                del values[name]
        return {"schema": "kd.plan/1", **values}


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run: Path
    model_path: Path
    task: str
    parameters: int
    bytes: int
    epochs: int
    steps: int
    seed: int
    best_epoch: int
    validation: dict[str, Any]
    test: Quality | None
    seconds: dict[str, float]
    examples_per_second: float
    teacher: dict[str, Any] | None = None
    targets: dict[str, Any] | None = None
    gates: tuple[GateResult, ...] = ()
    stages: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`kd.run/1`; `stages` lists the intermediate students of a chain."""
        document: dict[str, Any] = {"schema": "kd.run/1", "run": relativize_path(self.run)}
        document["model"] = relativize_path(self.model_path)
        for name in ("task", "parameters", "bytes", "epochs", "steps", "seed", "best_epoch", "validation"):
            document[name] = getattr(self, name)
        document["test"] = self.test.to_json() if self.test else None
        if self.teacher is not None:
            document["teacher"] = self.teacher
            document["targets"] = self.targets
        if self.stages:
            document["stages"] = list(self.stages)
        document["seconds"] = self.seconds
        document["examples_per_second"] = self.examples_per_second
        document["gates"] = [gate.to_json() for gate in self.gates]
        return document


@dataclass(frozen=True)
class FinishedRun:
    """A run that was already finished: a repeated `--resume` reads its summary.

    Args:
        followed: whether this process is a worker and the chief of the workers wrote the run.
    """

    run: Path
    model_path: Path
    document: dict[str, Any]
    gates: tuple[GateResult, ...] = ()
    followed: bool = False

    @property
    def test(self) -> Quality | None:
        """The test metrics of the summary."""
        metrics = self.document.get("test")
        return Quality(task=self.document["task"], **metrics) if metrics else None

    def to_json(self) -> dict[str, Any]:
        """The summary, with paths relative to the current folder."""
        paths = {"run": relativize_path(self.run), "model": relativize_path(self.model_path)}
        return {**self.document, **paths, "gates": [gate.to_json() for gate in self.gates]}
