"""Frozen numbers, to JSON. Rendering them is somebody else's job. What was not measured is None."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult

# Figures of which only some tasks have a value; the contract's keys come first.
_ALWAYS = ("accuracy", "loss", "top5", "ece", "balanced_accuracy", "examples")


def relativize_path(path: Path) -> str:
    """A path as documents show it: relative to the current folder."""
    return os.path.relpath(path)


@dataclass(frozen=True)
class Quality:
    """How good answers are on one split. Fractions, not percent; `loss` is the mean negative log-likelihood
    of the labels (squared error for regression). `at_chance`: whether guessing gives the same."""

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
        """A figure by name."""
        return getattr(self, name)

    def to_validation(self) -> dict[str, Any]:
        """`validation` of `kd.run/1`: accuracy, loss, examples, and the task's own figure."""
        keys = ["accuracy", "loss", "examples"]
        keys += [name for name in ("macro_f1", "rmse", "psnr", "mean_iou") if self.metric(name) is not None]
        return {name: getattr(self, name) for name in keys}

    def to_json(self) -> dict[str, Any]:
        """The keys of `kd.run/1`, and those that this task has besides."""
        values = asdict(self)
        extra = [f.name for f in fields(self) if f.name not in (*_ALWAYS, "task", "low", "high", "agreement")]
        shown = {name: values[name] for name in _ALWAYS}
        return {**shown, **{name: values[name] for name in extra if values[name] is not None}}


@dataclass(frozen=True)
class ClassQuality:
    """One class on one split.

    Args:
        examples: of this class; pixels in a map of classes.
        precision, recall, f1: None where nothing was named so, or nothing is.
        change: of F1 against the teacher's.
    """

    name: str
    examples: int
    precision: float | None
    recall: float | None
    f1: float | None
    change: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a run is going to do, with every `auto` resolved; `student` is None when a teacher is trained.

    `student_formats` says for each export format whether the trained model will have it: `yes`, or why not.
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
        """`kd.plan/1`; `arms` only in a comparison, `stages` only where there are several."""
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
        """`kd.run/1`; `stages` are the assistants that taught in between, where there are any."""
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
    """A run that had ended before: its summary, read again by a repeated `--resume`.

    `followed` is true for a worker that trained along: the chief of the workers has written it.
    """

    run: Path
    model_path: Path
    document: dict[str, Any]
    gates: tuple[GateResult, ...] = ()
    followed: bool = False

    @property
    def test(self) -> Quality | None:
        """The test figures of the summary."""
        figures = self.document.get("test")
        return Quality(task=self.document["task"], **figures) if figures else None

    def to_json(self) -> dict[str, Any]:
        """The summary, with the paths as they are seen from the current folder."""
        own = {"run": relativize_path(self.run), "model": relativize_path(self.model_path)}
        return {**self.document, **own, "gates": [gate.to_json() for gate in self.gates]}
