"""The metric of a search: its value, and how far two models differ in it on the same examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kdcli.compression.request import METRICS_OF_TASK
from kdcli.data.order_and_splits import draw_numbers
from kdcli.errors import UsageError
from kdcli.evaluation.quality import measure_quality
from kdcli.evaluation.statistics import Z95, PairedDecisions
from kdcli.recipe.gates import METRICS
from kdcli.recipe.sections import LOWER_IS_BETTER

# Resamples of the examples for a metric that is not a mean over them.
_RESAMPLES = 100
# The largest class may have this many times the examples of the smallest before balanced accuracy is suggested.
IMBALANCE = 5


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric on one split.

    Args:
        name: a key of `kdcli.recipe.gates.METRICS`.
        task: task of the data.
        labels: of the split, or None.
        teacher: (examples, outputs) the teacher's logits for the split.
    """

    name: str
    task: str
    labels: np.ndarray | None
    teacher: np.ndarray

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is better."""
        return self.name in LOWER_IS_BETTER

    @property
    def is_fraction(self) -> bool:
        """Whether the value is a fraction, so that differences are points."""
        return METRICS[self.name].fraction

    def measure(self, logits: np.ndarray) -> float:
        """The value for a model's logits; NaN where the data does not define it."""
        value = self._measure(logits, self.labels, self.teacher)
        return math.nan if value is None else value

    def measure_teacher(self) -> float:
        """The value of the teacher itself."""
        return self.measure(self.teacher)

    def drop(self, logits: np.ndarray, *, reference: np.ndarray | None = None) -> float:
        """By how much a model is worse than a reference, the teacher by default; negative if it is better."""
        before = self.measure(self.teacher if reference is None else reference)
        difference = before - self.measure(logits)
        return -difference if self.lower_is_better else difference

    def interval(self, logits: np.ndarray, *, reference: np.ndarray | None = None) -> tuple[float, float]:
        """The 95% interval of the drop, paired on the same examples."""
        reference = self.teacher if reference is None else reference
        if self.task == "classification" and self.name == "accuracy" and self.labels is not None:
            ours, theirs = (one.argmax(-1) == self.labels for one in (logits, reference))
            wins, losses = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
            return PairedDecisions(len(ours), wins, losses).interval()
        drop, error = self.drop(logits, reference=reference), self.standard_error(logits, reference)
        return drop - Z95 * error, drop + Z95 * error

    def standard_error(self, first: np.ndarray, second: np.ndarray) -> float:
        """The standard error of the difference of two models on the same examples."""
        pair = [self._contributions(one) for one in (first, second)]
        if pair[0] is not None and pair[1] is not None:
            difference = pair[0] - pair[1]
            return float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else 0.0
        count = len(first)
        differences = []
        for number in range(_RESAMPLES):
            rows = (draw_numbers(count, number) * count).astype(int)
            labels = None if self.labels is None else self.labels[rows]
            values = [self._measure(one[rows], labels, self.teacher[rows]) for one in (first, second)]
            if None not in values:
                differences.append(float(values[0] or 0.0) - float(values[1] or 0.0))
        return float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0

    def _contributions(self, logits: np.ndarray) -> np.ndarray | None:
        """What each example adds to a metric that is a mean over them; None for another metric."""
        if self.task == "classification" and self.name == "accuracy" and self.labels is not None:
            return (logits.argmax(-1) == self.labels).astype(float)
        if self.task == "classification" and self.name == "agreement":
            return (logits.argmax(-1) == self.teacher.argmax(-1)).astype(float)
        if self.name == "mae" and self.labels is not None:
            return np.abs(logits - self.labels.reshape(logits.shape)).reshape(len(logits), -1).mean(1)
        return None

    def _measure(self, logits: np.ndarray, labels: np.ndarray | None, teacher: np.ndarray) -> float | None:
        return measure_quality(logits, labels, task=self.task, teacher=teacher).metric(self.name)


def choose_metric(name: str | None, task: str, *, labelled: bool) -> str:
    """The name of the metric of a search.

    Args:
        name: from `--metric`; None takes that of the task.
        task: of the data.
        labelled: whether the data has labels; without them only agreement with the teacher can be measured.

    Raises:
        UsageError: the data does not have the metric.
    """
    known = METRICS_OF_TASK[task]
    if not labelled:
        known = tuple(one for one in known if not METRICS[one].labelled)
        if not known:
            raise UsageError(f"unlabelled {task} data has no metric to hold", hint="use data with labels")
    if name is None:
        return known[0]
    if name not in known:
        kind = task if labelled else f"unlabelled {task}"
        hint = "--min-agreement 0.95" if not labelled else f"--metric {known[0]}"
        raise UsageError(f"{name} cannot be measured on {kind} data; metrics: {', '.join(known)}", hint=hint)
    return name
