"""How good answers are: figures in float64 from logits and labels, by task."""

from __future__ import annotations

import numpy as np

from kdcli.data.examples import Examples
from kdcli.evaluation.chance import measure_chance
from kdcli.evaluation.statistics import wilson_interval
from kdcli.events import OnEvent, Progress
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS, Predictor
from kdcli.runs.results import Quality

CALIBRATION_BINS = 15
# The figure that selects the best weights, and that the log shows first.
MAIN_METRIC = {
    "classification": "accuracy",
    "segmentation": "mean_iou",
    "multilabel": "macro_f1",
    "regression": "rmse",
}


def measure_quality(
    logits: np.ndarray, labels: np.ndarray | None, *, task: str, teacher: np.ndarray | None = None
) -> Quality:
    """Every figure of a task.

    Args:
        logits: (n, ..., outputs) logits; values for regression.
        labels: (n,) classes, (n, h, w) classes (below 0: void), or (n, ..., outputs) values; None for unlabelled
            data.
        task: `classification`, `segmentation`, `multilabel` or `regression`.
        teacher: the teacher's logits on the same examples, for the agreement.
    """
    logits = logits.astype(np.float64)
    examples = len(logits)
    chance = None if labels is None else measure_chance(logits, labels, task=task)
    at_chance = None if chance is None else chance.holds
    if task == "segmentation" and labels is not None:
        # Void pixels count for nothing.
        valid = labels >= 0
        logits, labels, teacher = logits[valid], labels[valid], None if teacher is None else teacher[valid]
    agreement = None if teacher is None else measure_agreement(logits, teacher, task=task)
    if labels is None:
        return Quality(task, examples, agreement=agreement)
    figures = {
        "classification": _classification,
        "segmentation": _segmentation,
        "multilabel": _multilabel,
        "regression": _regression,
    }[task](logits, labels)
    return Quality(task, examples, agreement=agreement, at_chance=at_chance, **figures)


def measure_agreement(logits: np.ndarray, teacher: np.ndarray, *, task: str) -> float | None:
    """The share of decisions on which two models agree; None where nothing is decided."""
    if task == "regression":
        return None
    if task == "multilabel":
        return float(np.mean((logits > 0) == (teacher > 0)))
    return float(np.mean(logits.argmax(-1) == teacher.argmax(-1)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    right = logits.argmax(-1) == labels
    log_probabilities = _log_softmax(logits)
    of_label = np.take_along_axis(log_probabilities, labels[:, None], -1)
    low, high = wilson_interval(int(right.sum()), len(right))
    counts = np.bincount(labels, minlength=logits.shape[-1])
    hits = np.bincount(labels[right], minlength=logits.shape[-1])
    above = (logits > np.take_along_axis(logits, labels[:, None], -1)).sum(-1)
    return {
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "loss": float(-of_label.mean()),
        "top5": float((above < 5).mean()) if logits.shape[-1] > 5 else None,
        "ece": measure_calibration_error(np.exp(log_probabilities.max(-1)), right),
        "balanced_accuracy": float((hits[counts > 0] / counts[counts > 0]).mean()),
        "macro_f1": _macro_f1(labels, logits.argmax(-1), logits.shape[-1]),
    }


def measure_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599)."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, confidence - right, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(right))


def _macro_f1(labels: np.ndarray, decided: np.ndarray, classes: int) -> float:
    """Mean F1 over the classes that occur among labels or decisions."""
    hits = np.bincount(labels[labels == decided], minlength=classes)
    total = np.bincount(labels, minlength=classes) + np.bincount(decided, minlength=classes)
    present = total > 0
    return float((2 * hits[present] / total[present]).mean())


def _segmentation(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    classes = logits.shape[-1]
    decided = logits.argmax(-1)
    of_label = np.take_along_axis(_log_softmax(logits), labels[..., None], -1)
    counts = np.bincount((labels * classes + decided).ravel(), minlength=classes * classes)
    table = counts.reshape(classes, classes)
    hits, union = np.diag(table), table.sum(0) + table.sum(1) - np.diag(table)
    present = union > 0
    return {
        "accuracy": float((decided == labels).mean()),
        "loss": float(-of_label.mean()),
        "mean_iou": float((hits[present] / union[present]).mean()),
    }


def _multilabel(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    decided, truth = logits > 0, labels > 0.5
    hits = (decided & truth).sum(0)
    total = decided.sum(0) + truth.sum(0)
    f1 = np.divide(2 * hits, total, out=np.ones(len(hits)), where=total > 0)
    loss = np.maximum(logits, 0) - logits * truth + np.log1p(np.exp(-np.abs(logits)))
    return {
        "accuracy": float((decided == truth).mean()),
        "loss": float(loss.mean()),
        "macro_f1": float(f1.mean()),
        "micro_f1": float(2 * hits.sum() / max(total.sum(), 1)),
        "mean_average_precision": _mean_average_precision(logits, truth),
    }


def _mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Mean over the labels that occur of the precision at each hit, ranked by score; equal scores share a rank."""
    found = []
    for column in np.flatnonzero(truth.any(0)):
        _, rank = np.unique(-scores[:, column], return_inverse=True)
        hits, sizes = np.bincount(rank, truth[:, column]), np.bincount(rank)
        precision = np.cumsum(hits) / np.cumsum(sizes)
        found.append((hits * precision).sum() / hits.sum())
    return float(np.mean(found)) if found else None


def _regression(values: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    labels = labels.reshape(values.shape).astype(np.float64)
    squared = np.square(values - labels)
    spread = np.square(labels - labels.mean(0)).sum()
    return {
        "loss": float(squared.mean()),
        "mae": float(np.abs(values - labels).mean()),
        "rmse": float(np.sqrt(squared.mean())),
        "r2": float(1 - squared.sum() / spread) if spread else None,
        "psnr": _psnr(squared, labels) if labels.ndim == 4 else None,
    }


def _psnr(squared: np.ndarray, labels: np.ndarray) -> float | None:
    """The mean over the images of the peak signal-to-noise ratio, in dB.

    An image without an error counts as one with an error of a hundred-thousandth of the peak: 100 dB.
    """
    low, high = labels.min(), labels.max()
    if low >= 0 and high <= 1:
        peak = 1.0
    elif low >= -1 and high <= 1:
        peak = 2.0
    else:
        stored = low >= 0 and high <= 255 and bool((labels == np.floor(labels)).all())
        peak = 255.0 if stored else float(high - low)
    if not peak:
        return None
    errors = np.maximum(squared.mean(axis=(1, 2, 3)), 1e-10 * peak**2)
    return float(np.mean(10 * np.log10(peak**2 / errors)))


def to_probabilities(logits: np.ndarray, *, output_kind: str) -> np.ndarray | None:
    """What logits say as probabilities, float32; None for values.

    Args:
        logits: (n, ..., outputs).
        output_kind: `logits` (classes that exclude each other), `sigmoid` (independent ones) or `values`.
    """
    exact = logits.astype(np.float64)
    if output_kind == "values":
        return None
    if output_kind == "sigmoid":
        # exp of a positive number could overflow: tanh is the same curve.
        return (0.5 + 0.5 * np.tanh(exact / 2)).astype(np.float32)
    raised = np.exp(exact - exact.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32)


def decide_classes(logits: np.ndarray, *, task: str) -> np.ndarray | None:
    """(n, ...) the class, or for `multilabel` (n, outputs) 0 or 1; None for regression."""
    if task == "regression":
        return None
    return (logits > 0).astype(np.int64) if task == "multilabel" else logits.argmax(-1)


def evaluate_split(
    network: Network,
    split: Examples,
    *,
    task: str,
    on_event: OnEvent,
    teacher: np.ndarray | None = None,
    batch_size: int = 256,
) -> tuple[Quality, np.ndarray]:
    """The quality on a split, and the logits that it was measured on."""

    def told(done: int) -> None:
        on_event(Progress("evaluation", done, len(split), "examples"))

    ask = Predictor(network, batch_size=batch_size)
    logits = ask(split.take, len(split), on_batch=told)[LOGITS]
    return measure_quality(logits, split.all_labels(), task=task, teacher=teacher), logits
