"""Whether outputs follow from the inputs at all, or are what guessing gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kdcli.errors import ModelError
from kdcli.runs.results import Quality

# Standard errors within which a metric is no better than guessing.
ERRORS = 2.0


@dataclass(frozen=True)
class Chance:
    """A metric beside what it would be if outputs had nothing to do with inputs.

    Args:
        value: the mean recall of the classes; r² for values.
        guessing: what decisions as frequent as these, but independent of the labels, give on average.
        error: the standard error of the difference.
    """

    value: float
    guessing: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether the model is at chance: its interval reaches what guessing gives."""
        return not self.value - ERRORS * self.error > self.guessing


def measure_chance(logits: np.ndarray, labels: np.ndarray, *, task: str) -> Chance | None:
    """Compare a model with guessing.

    For classes, decisions that are independent of the labels have a mean recall of one over the number of classes,
    however unbalanced these are; always naming the most frequent class has the same. A pixel is an example, and
    pixels of one image belong together; each output of `multilabel` is two classes. Values are compared with their
    mean: r² is above 0 where they are nearer.

    Args:
        logits: (n, ..., outputs) logits; values for regression.
        labels: (n, ...) classes, or (n, ..., outputs) values.
        task: `classification`, `segmentation`, `multilabel` or `regression`.

    Returns:
        None where all labels are the same: then there is nothing to know.
    """
    if task == "regression":
        return _of_values(logits, labels)
    if task == "multilabel":
        truth = labels > 0.5
        varied = truth.any(0) & ~truth.all(0)
        decided, truth = (logits > 0)[:, varied], truth[:, varied]
        named, present = (np.concatenate([one, ~one], -1).astype(np.int64) for one in (decided, truth))
        return _of_classes(named * present, named, present, len(labels))
    classes = logits.shape[-1]
    truth = labels.reshape(len(labels), -1)
    # Labels that are not a class (void pixels) go with their decisions into a column that is dropped.
    truth = np.where((truth >= 0) & (truth < classes), truth, classes)
    decided = np.where(truth < classes, logits.argmax(-1).reshape(truth.shape), classes)
    right = np.where(decided == truth, truth, classes)
    hits, named, present = (_counts(one, classes) for one in (right, decided, truth))
    return _of_classes(hits, named, present, int(present.sum()))


def refuse_teacher_at_chance(logits: np.ndarray, labels: np.ndarray, *, name: str) -> float:
    """Refuse a teacher that knows nothing about the data; gives its accuracy on training examples.

    Args:
        logits: (n, classes), the teacher's.
        labels: (n,) classes.
        name: of the teacher, for messages.

    Raises:
        ModelError: it is at chance.
    """
    accuracy = float(np.mean(logits.argmax(-1) == labels))
    chance = measure_chance(logits, labels, task="classification")
    if chance is not None and chance.holds:
        raise ModelError(
            f"the teacher ({name}) is at chance level: accuracy {accuracy:.3f} on {len(labels)} training "
            f"examples, mean recall {chance.value:.3f} against {chance.guessing:.3f} by guessing",
            hint="check the order of the classes and teacher.input.scale; --no-preflight skips this check",
        )
    return accuracy


def describe_chance(quality: Quality, name: str, split: str) -> str:
    """What a person must know of a model at chance.

    Args:
        quality: on the split.
        name: of the model.
        split: such as `test`.
    """
    on = f"{quality.examples} {split} examples"
    if quality.task == "regression":
        r2 = "" if quality.r2 is None else f": r² {quality.r2:.4f} on {on}"
        return f"{name} is not better than always giving the mean{r2}"
    recall = quality.balanced_accuracy
    if recall is not None:
        return f"{name} is at chance: balanced accuracy {recall:.4f} on {on}, and guessing gives as much"
    return f"{name} is at chance: on {on} its decisions have nothing to do with the labels"


def _counts(chosen: np.ndarray, classes: int) -> np.ndarray:
    """(n, classes) how often each class is in each row of (n, m); what is `classes` itself is left out."""
    flat = chosen + (classes + 1) * np.arange(len(chosen))[:, None]
    counts = np.bincount(flat.ravel(), minlength=len(chosen) * (classes + 1))
    return counts.reshape(len(chosen), classes + 1)[:, :classes]


def _of_classes(hits: np.ndarray, named: np.ndarray, present: np.ndarray, decisions: int) -> Chance | None:
    """From (n, classes) counts of right decisions, of decisions and of labels.

    Args:
        decisions: between the same classes, over all examples.
    """
    there = present.any(0)
    hits, named, present = hits[:, there], named[:, there], present[:, there]
    count, total = present.shape[1], present.sum(0)
    if count < 2:
        return None
    recalls = hits.sum(0) / total
    # Decisions that are independent name a class as often where it is as elsewhere.
    shares = named.sum(0) / decisions
    variance = np.square(((hits - recalls * present) / total).sum(1) / count).sum()
    # A recall of 0 or 1 on few examples is not certain.
    least = (0.25 * shares / (present > 0).sum(0)).sum() / count**2
    return Chance(float(recalls.mean()), float(shares.mean()), math.sqrt(max(variance, least)))


def _of_values(values: np.ndarray, labels: np.ndarray) -> Chance | None:
    truth, rows = labels.reshape(values.shape).astype(np.float64), len(values)
    spread = np.square(truth - truth.mean(0)).reshape(rows, -1).mean(1)
    if not spread.any():
        return None
    saved = spread - np.square(values - truth).reshape(rows, -1).mean(1)
    error = saved.std(ddof=1) / math.sqrt(rows)
    return Chance(float(saved.mean() / spread.mean()), 0.0, float(error / spread.mean()))
