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
class PairedMetric:
    """A metric on one split. Outputs are what `reduce` makes of logits: class maps for segmentation.

    Args:
        name: a key of `kdcli.recipe.gates.METRICS`.
        task: task of the data.
        labels: of the split, or None.
        teacher: outputs of the teacher for the split.
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

    def reduce(self, logits: np.ndarray) -> np.ndarray:
        """The outputs from which the metric is measured: the logits, or (n, h, w) classes for segmentation."""
        return logits.argmax(-1).astype(np.int32) if self.task == "segmentation" else logits

    def measure(self, outputs: np.ndarray) -> float:
        """The value for a model's outputs; NaN where the data does not define it."""
        if self.task == "segmentation":
            return self._measure_tables(self._count_tables(outputs).sum(0))
        return self._measure(outputs, self.labels, self.teacher)

    def measure_teacher(self) -> float:
        """The value of the teacher itself."""
        return self.measure(self.teacher)

    def drop(self, outputs: np.ndarray, *, reference: np.ndarray | None = None) -> float:
        """By how much a model is worse than a reference, the teacher by default; negative if it is better."""
        before = self.measure(self.teacher if reference is None else reference)
        difference = before - self.measure(outputs)
        return -difference if self.lower_is_better else difference

    def interval(self, outputs: np.ndarray, *, reference: np.ndarray | None = None) -> tuple[float, float]:
        """The 95% interval of the drop, paired on the same examples."""
        reference = self.teacher if reference is None else reference
        if self.task == "classification" and self.name == "accuracy" and self.labels is not None:
            ours, theirs = (one.argmax(-1) == self.labels for one in (outputs, reference))
            wins, losses = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
            return PairedDecisions(len(ours), wins, losses).interval()
        drop, error = self.drop(outputs, reference=reference), self.standard_error(outputs, reference)
        return drop - Z95 * error, drop + Z95 * error

    def standard_error(self, first: np.ndarray, second: np.ndarray) -> float:
        """The standard error of the difference of two models on the same examples."""
        pair = [self._contributions(one) for one in (first, second)]
        if pair[0] is not None and pair[1] is not None:
            difference = pair[0] - pair[1]
            return float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else 0.0
        count = len(first)
        rows = [(draw_numbers(count, number) * count).astype(int) for number in range(_RESAMPLES)]
        if self.task == "segmentation":
            tables = [self._count_tables(one) for one in (first, second)]
            values = [[self._measure_tables(one[taken].sum(0)) for one in tables] for taken in rows]
        else:
            values = [[self._measure_at(one, taken) for one in (first, second)] for taken in rows]
        differences = [ours - theirs for ours, theirs in values if math.isfinite(ours - theirs)]
        return float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0

    def _contributions(self, outputs: np.ndarray) -> np.ndarray | None:
        """What each example adds to a metric that is a mean over them; None for another metric."""
        if self.task == "classification" and self.name == "accuracy" and self.labels is not None:
            return (outputs.argmax(-1) == self.labels).astype(float)
        if self.task == "classification" and self.name == "agreement":
            return (outputs.argmax(-1) == self.teacher.argmax(-1)).astype(float)
        if self.name == "mae" and self.labels is not None:
            return np.abs(outputs - self.labels.reshape(outputs.shape)).reshape(len(outputs), -1).mean(1)
        return None

    def _count_tables(self, outputs: np.ndarray) -> np.ndarray:
        """(n, 2 + classes * classes): for each image its pixels, those as the teacher's, and label by class."""
        labels = np.zeros_like(outputs) if self.labels is None else self.labels
        classes = int(max(outputs.max(), self.teacher.max(), labels.max())) + 1
        tables = np.zeros((len(outputs), 2 + classes * classes))
        for number, (found, label, teacher) in enumerate(zip(outputs, labels, self.teacher, strict=True)):
            # Void pixels are not evaluated.
            valid = label >= 0
            tables[number, :2] = valid.sum(), (found[valid] == teacher[valid]).sum()
            pairs = label[valid].astype(np.int64) * classes + found[valid]
            tables[number, 2:] = np.bincount(pairs, minlength=classes * classes)
        return tables

    def _measure_tables(self, table: np.ndarray) -> float:
        if self.name == "agreement":
            return float(table[1] / table[0]) if table[0] else math.nan
        classes = math.isqrt(len(table) - 2)
        confusion = table[2:].reshape(classes, classes)
        hits = np.diag(confusion)
        if self.name == "accuracy":
            return float(hits.sum() / confusion.sum())
        union = confusion.sum(0) + confusion.sum(1) - hits
        return float((hits[union > 0] / union[union > 0]).mean())

    def _measure_at(self, outputs: np.ndarray, rows: np.ndarray) -> float:
        labels = None if self.labels is None else self.labels[rows]
        return self._measure(outputs[rows], labels, self.teacher[rows])

    def _measure(self, outputs: np.ndarray, labels: np.ndarray | None, teacher: np.ndarray) -> float:
        value = measure_quality(outputs, labels, task=self.task, teacher=teacher).metric(self.name)
        return math.nan if value is None else value


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
            raise UsageError(f"kd compress has no metric for unlabelled {task} data", hint="use data with labels")
    if name is None:
        return known[0]
    if name not in known:
        kind = task if labelled else f"unlabelled {task}"
        hint = "--min-agreement 0.95" if not labelled else f"--metric {known[0]}"
        raise UsageError(f"{name} cannot be measured on {kind} data; metrics: {', '.join(known)}", hint=hint)
    return name
