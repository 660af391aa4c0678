"""Whether a model is better than guessing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kdcli.errors import ModelError
from kdcli.runs.results import Quality

# A metric within this many standard errors of guessing is at chance.
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Chance:
    """A metric, and its expected value if the outputs were independent of the inputs.

    Args:
        value: mean recall over the classes; r² for values.
        guessing: expected value of equally frequent predictions that are independent of the labels.
        error: standard error of the difference.
    """

    value: float
    guessing: float
    error: float

    @property
    def at_chance(self) -> bool:
        """Whether the interval of the value includes what guessing gives."""
        return not self.value - _STANDARD_ERRORS * self.error > self.guessing


def measure_chance(logits: np.ndarray, labels: np.ndarray, *, task: str) -> Chance | None:
    """Compare a model with guessing.

    Predictions that are independent of the labels have a mean recall of 1 / classes, even for unbalanced classes;
    so has a model that always predicts the most frequent class. In segmentation each pixel is an example, and the
    standard error is taken over images. Each output of `multilabel` counts as two classes. Values are compared
    with the mean of the labels: r² is above 0 if they are closer.

    Args:
        logits: (n, ..., outputs) logits; values for regression.
        labels: (n, ...) classes, or (n, ..., outputs) values.
        task: `classification`, `segmentation`, `multilabel` or `regression`.

    Returns:
        None if all labels are equal.
    """
    if task == "regression":
        return _measure_values(logits, labels)
    if task == "multilabel":
        truth = labels > 0.5
        varied = truth.any(0) & ~truth.all(0)
        predicted, present = (
            np.concatenate([one, ~one], -1).astype(np.int64) for one in ((logits > 0)[:, varied], truth[:, varied])
        )
        return _measure_classes(predicted * present, predicted, present, len(labels))
    classes = logits.shape[-1]
    truth = labels.reshape(len(labels), -1)
    # Void pixels and their predictions go into an extra column that is dropped.
    truth = np.where((truth >= 0) & (truth < classes), truth, classes)
    named = np.where(truth < classes, logits.argmax(-1).reshape(truth.shape), classes)
    correct = np.where(named == truth, truth, classes)
    hits, predicted, present = (_count_by_row(one, classes) for one in (correct, named, truth))
    return _measure_classes(hits, predicted, present, int(present.sum()))


def refuse_teacher_at_chance(logits: np.ndarray, labels: np.ndarray, *, name: str) -> float:
    """Refuse a teacher that is at chance.

    Args:
        logits: (n, classes), the teacher's logits for training examples.
        labels: (n,) classes.
        name: name of the teacher in messages.

    Returns:
        The teacher's accuracy on these examples.

    Raises:
        ModelError: the teacher is at chance.
    """
    accuracy = float(np.mean(logits.argmax(-1) == labels))
    chance = measure_chance(logits, labels, task="classification")
    if chance is not None and chance.at_chance:
        raise ModelError(
            f"the teacher ({name}) is at chance level: accuracy {accuracy:.3f} on {len(labels)} training "
            f"examples, mean recall {chance.value:.3f} (guessing: {chance.guessing:.3f})",
            hint="check the order of the classes and teacher.input.scale; --no-preflight skips this check",
        )
    return accuracy


def describe_chance(quality: Quality, name: str, split: str) -> str:
    """A warning about a model that is at chance.

    Args:
        quality: quality on the split.
        name: name of the model.
        split: name of the split, such as `test`.
    """
    on = f"{quality.examples} {split} examples"
    if quality.task == "regression":
        r2 = "" if quality.r2 is None else f": r² {quality.r2:.4f} on {on}"
        return f"{name} is not better than always predicting the mean{r2}"
    recall = quality.balanced_accuracy
    if recall is not None:
        return f"{name} is at chance: balanced accuracy {recall:.4f} on {on}, no better than guessing"
    return f"{name} is at chance: its predictions on {on} are independent of the labels"


def _count_by_row(chosen: np.ndarray, classes: int) -> np.ndarray:
    """(n, classes) how often each class occurs in each row of (n, m); the value `classes` is not counted."""
    flat = chosen + (classes + 1) * np.arange(len(chosen))[:, None]
    counts = np.bincount(flat.ravel(), minlength=len(chosen) * (classes + 1))
    return counts.reshape(len(chosen), classes + 1)[:, :classes]


def _measure_classes(
    hits: np.ndarray, predicted: np.ndarray, present: np.ndarray, total_predicted: int
) -> Chance | None:
    """Chance from (n, classes) counts of correct predictions, predictions and labels.

    Args:
        total_predicted: number of predictions over all examples.
    """
    occurring = present.any(0)
    hits, predicted, present = hits[:, occurring], predicted[:, occurring], present[:, occurring]
    count, total = present.shape[1], present.sum(0)
    if count < 2:
        return None
    recalls = hits.sum(0) / total
    # Independent predictions name a class equally often for each label.
    frequencies = predicted.sum(0) / total_predicted
    variance = np.square(((hits - recalls * present) / total).sum(1) / count).sum()
    # A recall of 0 or 1 on few examples has a variance of 0, but is not certain.
    least = (0.25 * frequencies / (present > 0).sum(0)).sum() / count**2
    return Chance(float(recalls.mean()), float(frequencies.mean()), math.sqrt(max(variance, least)))


def _measure_values(values: np.ndarray, labels: np.ndarray) -> Chance | None:
    truth, rows = labels.reshape(values.shape).astype(np.float64), len(values)
    spread = np.square(truth - truth.mean(0)).reshape(rows, -1).mean(1)
    if not spread.any():
        return None
    saved = spread - np.square(values - truth).reshape(rows, -1).mean(1)
    error = saved.std(ddof=1) / math.sqrt(rows)
    return Chance(float(saved.mean() / spread.mean()), 0.0, float(error / spread.mean()))
