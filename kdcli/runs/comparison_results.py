"""Frozen numbers of a comparison, to JSON. What was not measured is None."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path


@dataclass(frozen=True)
class ComparedRun:
    """One model of an arm.

    Args:
        score: the task's main figure on the test split (`accuracy` for classes).
        validation, validation_loss: the same figure and the loss on validation, which alone selects.
        at_chance: whether guessing gives the same on the test split; None where that is not known.
    """

    seed: int
    model: Path
    score: float
    accuracy: float | None
    validation: float | None
    validation_loss: float | None
    at_chance: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """An entry of `runs`."""
        return {**asdict(self), "model": relativize_path(self.model)}


@dataclass(frozen=True)
class PairedRun:
    """Two models of one seed on the same test examples: the student alone and the distilled one."""

    seed: int
    gained: int
    lost: int
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class MeasuredGain:
    """A mean gain over the baseline with the interval that the verdict is read from.

    Args:
        level: share of such intervals that hold the true gain: 0.95, more where several recipes are tested.
        over: `repeats` (pairs of runs), or `examples` (one pair: no variance estimate).
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    level: float | None
    over: str


@dataclass(frozen=True)
class ComparedStudent:
    """One arm of a comparison; `status` is `finished`, or what went wrong; `test` has means over its runs,
    `mcnemar_seed` is that of the run that is best on validation; `teacher_gap` of a baseline is how much better
    the teacher is."""

    name: str
    status: str
    baseline: str | None
    runs: tuple[ComparedRun, ...] = ()
    mean: float | None = None
    sd: float | None = None
    accuracy: float | None = None
    accuracy_sd: float | None = None
    gain: MeasuredGain | None = None
    gap_recovered: float | None = None
    teacher_gap: MeasuredGain | None = None
    pairs: tuple[PairedRun, ...] = ()
    mcnemar_p: float | None = None
    mcnemar_seed: int | None = None
    verdict: str | None = None
    test: dict[str, float] = field(default_factory=dict)
    agreement: float | None = None
    parameters: int | None = None
    bytes: int | None = None
    flops: int | None = None
    latency: dict[str, Any] | None = None

    @property
    def at_chance(self) -> bool | None:
        """Whether all its runs are; None where that is not known of one."""
        known = [run.at_chance for run in self.runs]
        return None if None in known or not known else all(known)

    def to_json(self) -> dict[str, Any]:
        """An entry of `students` in `kd.compare/1`."""
        gain = {"mean": None, "low": None, "high": None} if self.gain is None else asdict(self.gain)
        runs = [run.to_json() for run in self.runs]
        return {
            "name": self.name,
            "status": self.status,
            "baseline": self.baseline,
            "score": {"mean": self.mean, "sd": self.sd},
            "accuracy": {"mean": self.accuracy, "sd": self.accuracy_sd, "runs": runs},
            "gain": gain,
            "gap_recovered": self.gap_recovered,
            "teacher_gap": None if self.teacher_gap is None else asdict(self.teacher_gap),
            "at_chance": self.at_chance,
            "mcnemar_p": self.mcnemar_p,
            "mcnemar_seed": self.mcnemar_seed,
            "pairs": [asdict(pair) for pair in self.pairs],
            "verdict": self.verdict,
            "test": self.test,
            "agreement": self.agreement,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "flops": self.flops,
            "latency": self.latency,
        }


@dataclass(frozen=True)
class Comparison:
    """What `kd compare` found.

    Args:
        metric: the task's main figure; for `rmse` less is better, and a gain is still positive.
        examples: in the test split.
        duplicates: test examples that are in the training split too.
        start: of the students: `fresh` or `file`.
        disagreement: share of test examples that one model of a pair alone decides rightly.
        latency_doubts: why the times may not hold.
        notes: sentences that a reader must know.
    """

    repeats: int
    metric: str
    examples: int
    duplicates: int
    start: str
    teacher: dict[str, Any]
    students: tuple[ComparedStudent, ...]
    latency_noise_floor: dict[str, float] | None
    latency_doubts: tuple[str, ...]
    smallest_visible_gain: float | None
    disagreement: float | None
    picked: Path | None
    notes: tuple[str, ...]
    environment: dict[str, Any]
    out: Path
    gates: tuple[GateResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`kd.compare/1`."""
        return {
            "schema": "kd.compare/1",
            "out": relativize_path(self.out),
            "repeats": self.repeats,
            "metric": self.metric,
            "examples": self.examples,
            "duplicates": self.duplicates,
            "start": self.start,
            "teacher": self.teacher,
            "students": [student.to_json() for student in self.students],
            "latency_noise_floor": self.latency_noise_floor,
            "latency_doubts": list(self.latency_doubts),
            "smallest_visible_gain": self.smallest_visible_gain,
            "disagreement": self.disagreement,
            "picked": relativize_path(self.picked) if self.picked else None,
            "notes": list(self.notes),
            "environment": self.environment,
            "gates": [gate.to_json() for gate in self.gates],
        }
