"""The frozen results of a comparison and their JSON. Values that were not measured are None."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path


@dataclass(frozen=True)
class ComparedRun:
    """One trained model of an arm.

    Args:
        score: main metric of the task on the test split (`accuracy` for classes).
        validation, validation_loss: the same metric and the loss on the validation split, which selects models.
        at_chance: whether the score on the test split is that of guessing; None if unknown.
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
    """The baseline and the distilled student of one seed on the same test examples.

    Args:
        gained, lost: examples that only the distilled student, or only the baseline, gets right.
        difference, low, high: gain and its interval.
        p: p-value of McNemar's test.
    """

    seed: int
    gained: int
    lost: int
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class MeasuredGain:
    """The mean gain over the baseline, with the interval that determines the verdict.

    Args:
        level: confidence level of the interval: 0.95, or higher if several recipes are tested.
        over: `repeats` (pairs of runs), or `examples` (one pair, without an estimate of the variance).
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    level: float | None
    over: str


@dataclass(frozen=True)
class ComparedStudent:
    """One arm of a comparison.

    Args:
        status: `finished`, or what went wrong.
        baseline: name of the baseline's arm; None for a baseline.
        gap_recovered: fraction of the gap between baseline and teacher that is closed.
        teacher_gap: gain of the teacher over a baseline.
        mcnemar_seed: seed of the run that is best on the validation split.
        test: means over the runs.
    """

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
        """Whether all runs are at chance; None if this is unknown for one of them."""
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
    """The result of `kd compare`.

    Args:
        metric: main metric of the task; `rmse` is better when lower, but a gain is positive too.
        examples: number of test examples.
        duplicates: number of test examples that are also in the training split.
        start: initial weights of the students: `fresh` or `file`.
        disagreement: fraction of test examples that only one model of a pair gets right.
        latency_doubts: why the latency may be unreliable.
        notes: sentences that readers of the report need.
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
