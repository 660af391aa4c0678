"""The schedule of a search: what a budget of seconds buys, from measured times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kdcli.errors import UsageError

# The fractions of a full training after which candidates are compared, and the fraction that goes on.
RUNGS, SURVIVORS = (1 / 16, 1 / 4, 1.0), 1 / 3
# Below this number of epochs fewer candidates are trained, then fewer examples are used.
_FEW_EPOCHS, _FEWEST_EPOCHS = 8, 2
# A subset has at least this many examples, and this part of the budget goes to the teacher at most.
FEWEST_EXAMPLES, _TEACHER_PART = 500, 0.35
# Augmented views for which the teacher's outputs are computed.
_MOST_VIEWS = 8
# Times vary on a machine with other work: the estimate of the training is raised by this factor.
_MARGIN = 1.1
# The part of a full training for the larger student of a candidate that is shrunk in two steps.
_LARGER_PART = 1 / 8


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured seconds.

    Args:
        steps: of one training step, by candidate.
        build: to open and compile a training, each time.
        teacher: of the teacher for one example; 0 where its outputs are cached.
        evaluation: of a student for one example.
        finish: to export, compare and time the final file.
        larger: of one training step of the larger student of a candidate in two steps, by candidate.
    """

    steps: dict[str, float]
    build: float
    teacher: float
    evaluation: float
    finish: float
    larger: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Length:
    """What is trained on.

    Args:
        examples: number of training examples.
        held_out: number of validation and test examples, for which the teacher's outputs are needed.
        validation: number of validation examples.
        batch: examples in a step.
        epochs: number of epochs requested.
        augmented: whether training examples are augmented.
        repeats: number of seeds of the best candidate.
        views: of each training example, if a setting says so; None lets the budget decide.
    """

    examples: int
    held_out: int
    validation: int
    batch: int
    epochs: int
    augmented: bool
    repeats: int = 1
    views: int | None = None


@dataclass(frozen=True, kw_only=True)
class SearchSchedule:
    """What is trained, for how long.

    Args:
        candidates: names of the candidates, in order.
        examples: number of training examples; all if None.
        views: augmented views of each; 1 without augmentation.
        epochs: of a full training.
        steps: of a full training.
        rungs: steps after which candidates are compared; the last is a full training.
        seconds: estimates by phase.
        findings: what was given up for the budget.
    """

    candidates: tuple[str, ...]
    examples: int | None
    views: int
    epochs: int
    steps: int
    rungs: tuple[int, ...]
    seconds: dict[str, float]
    findings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The record of the schedule."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SearchSchedule:
        """Read the record of a schedule."""
        tuples = {name: tuple(values[name]) for name in ("candidates", "rungs", "findings")}
        return cls(**{**values, **tuples})


def count_survivors(candidates: int) -> int:
    """How many of some candidates go on after a rung."""
    return max(1, math.ceil(candidates * SURVIVORS))


def count_larger_epochs(epochs: int) -> int:
    """The epochs of the larger student of a candidate that is shrunk in two steps, from its own epochs."""
    return max(1, round(epochs * _LARGER_PART))


def list_rungs(steps: int, candidates: int) -> tuple[int, ...]:
    """The steps after which candidates are compared: fewer rungs for fewer candidates, one for a single one."""
    fractions = RUNGS if candidates > 3 else RUNGS[1:] if candidates > 1 else RUNGS[2:]
    return tuple(sorted({max(1, round(steps * fraction)) for fraction in fractions}))


def plan_schedule(
    names: Sequence[str], costs: Costs, length: Length, *, budget: float, spent: float = 0.0
) -> SearchSchedule:
    """Plan a search within a budget: fewer candidates first, then fewer examples.

    Args:
        names: of the candidates, the most promising first.
        costs: measured times.
        length: what is trained on.
        budget: seconds for everything.
        spent: seconds of it that are spent already.

    Raises:
        UsageError: the budget does not buy one epoch for one candidate; the message says what would.
    """
    budget -= spent
    findings: list[str] = []
    whole = _Planner(costs, length, budget)
    for count in range(len(names), 0, -1):
        epochs = whole.count_epochs(names[:count])
        if epochs >= min(_FEW_EPOCHS, length.epochs):
            break
    if count < len(names):
        findings.append(f"the budget is too small for {len(names)} candidates: {count} {_go(count)} trained")
    planner, examples = whole, None
    if epochs < min(_FEWEST_EPOCHS, length.epochs):
        planner, examples = _use_fewer_examples(whole, names[:count])
        epochs = planner.count_epochs(names[:count])
        findings.append(f"the budget is too small for {length.examples:,} examples: {examples:,} are used")
    if epochs < 1:
        needed = spent + planner.budget + planner.missing_seconds(names[:1], 1)
        minutes = math.ceil(needed / 60 * 1.1)
        raise UsageError(
            f"--budget: {max(0.0, budget) / 60:.1f} minutes are left for training, too few for one epoch of "
            f"{planner.length.examples:,} examples; the search needs about {minutes} minutes",
            hint=f"--budget {minutes}m",
        )
    if epochs < length.epochs:
        findings.append(f"the budget buys {epochs} of {length.epochs} epochs")
    if length.augmented and length.views is None and planner.views == 1:
        findings.append(
            "the budget is too small for two augmented views of the teacher: students train without augmentation"
        )
    epochs = min(epochs, length.epochs)
    steps = epochs * planner.epoch_steps
    rungs = list_rungs(steps, count)
    return SearchSchedule(
        candidates=tuple(names[:count]),
        examples=examples,
        views=planner.views,
        epochs=epochs,
        steps=steps,
        rungs=rungs,
        seconds=planner.estimate(names[:count], steps),
        findings=tuple(findings),
    )


def _go(count: int) -> str:
    return "is" if count == 1 else "are"


@dataclass(frozen=True)
class _Planner:
    """Estimates for a number of training examples."""

    costs: Costs
    length: Length
    budget: float

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return max(1, self.length.examples // self.length.batch)

    @property
    def views(self) -> int:
        """Augmented views that the budget buys from the teacher; 1 where two are too many."""
        if not self.length.augmented:
            return 1
        if self.length.views is not None:
            return self.length.views
        if not self.costs.teacher:
            return min(_MOST_VIEWS, self.length.epochs)
        bought = int(_TEACHER_PART * self.budget / (self.costs.teacher * self.length.examples))
        return max(1, min(bought, _MOST_VIEWS, self.length.epochs))

    @property
    def teacher_seconds(self) -> float:
        """Seconds for the teacher's outputs."""
        return self.costs.teacher * (self.length.examples * self.views + self.length.held_out)

    def estimate(self, names: Sequence[str], steps: int) -> dict[str, float]:
        """Seconds by phase, for a full training of some steps."""
        alive = sorted((self.costs.steps[name] for name in names), reverse=True)
        larger = count_larger_epochs(steps // self.epoch_steps) * self.epoch_steps
        slower = [self.costs.larger[name] for name in names if name in self.costs.larger]
        pilots = sum(larger * each * _MARGIN + self.costs.build + self._evaluate(larger) for each in slower)
        training, done = 0.0, 0
        rungs = list_rungs(steps, len(names))
        for end in rungs:
            seconds = sum((end - done) * each * _MARGIN for each in alive)
            seconds += len(alive) * (self.costs.build + self._evaluate(end - done))
            if end == rungs[-1]:
                training += seconds
            else:
                pilots += seconds
            alive, done = alive[: count_survivors(len(alive))], end
        repeat = steps * alive[0] * _MARGIN + self.costs.build + self._evaluate(steps)
        training += (self.length.repeats - 1) * repeat
        phases = {"teacher": self.teacher_seconds, "pilots": pilots, "training": training}
        phases["finish"] = self.costs.finish
        return {name: round(seconds, 1) for name, seconds in {**phases, "total": sum(phases.values())}.items()}

    def count_epochs(self, names: Sequence[str]) -> int:
        """Whole epochs of a full training that fit into the budget, at most those that are wanted."""
        low, high = 0, self.length.epochs
        while low < high:
            middle = (low + high + 1) // 2
            if self.estimate(names, middle * self.epoch_steps)["total"] <= self.budget:
                low = middle
            else:
                high = middle - 1
        return low

    def missing_seconds(self, names: Sequence[str], epochs: int) -> float:
        """How much the budget is short of some epochs."""
        return max(0.0, self.estimate(names, epochs * self.epoch_steps)["total"] - self.budget)

    def _evaluate(self, steps: int) -> float:
        """Seconds to evaluate the validation split after each epoch among some steps, and once at the end."""
        return self.costs.evaluation * self.length.validation * (steps / self.epoch_steps + 1)


def _use_fewer_examples(whole: _Planner, names: Sequence[str]) -> tuple[_Planner, int]:
    """The planner for the largest part of the examples with which two epochs fit, or for the smallest part."""
    least = min(FEWEST_EXAMPLES, whole.length.examples)
    count = whole.length.examples
    while True:
        planner = replace(whole, length=replace(whole.length, examples=count))
        if count <= least or planner.count_epochs(names) >= _FEWEST_EPOCHS:
            return planner, count
        count = max(least, int(count * 0.8))
