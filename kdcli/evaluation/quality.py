"""The quality of predictions: metrics in float64 from logits and labels, by task, overall and by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdcli.data.examples import Examples
from kdcli.evaluation.chance import measure_chance
from kdcli.evaluation.statistics import wilson_interval
from kdcli.events import OnEvent, Progress
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS, Predictor
from kdcli.runs.results import ClassQuality, Quality

CALIBRATION_BINS = 15
# The metric that selects the best weights, and that the log shows first.
MAIN_METRIC = {
    "classification": "accuracy",
    "segmentation": "mean_iou",
    "multilabel": "macro_f1",
    "regression": "rmse",
}


def measure_quality(
    logits: np.ndarray, labels: np.ndarray | None, *, task: str, teacher: np.ndarray | None = None
) -> Quality:
    """Every metric of a task.

    Args:
        logits: (n, ..., outputs) logits; values for regression.
        labels: (n,) classes, (n, h, w) classes (below 0: void), or (n, ..., outputs) values; None for unlabelled
            data.
        task: `classification`, `segmentation`, `multilabel` or `regression`.
        teacher: the teacher's logits for the same examples, for the agreement.
    """
    logits = logits.astype(np.float64)
    examples = len(logits)
    chance = None if labels is None else measure_chance(logits, labels, task=task)
    at_chance = None if chance is None else chance.at_chance
    if task == "segmentation" and labels is not None:
        # Void pixels are not evaluated.
        valid = labels >= 0
        logits, labels, teacher = logits[valid], labels[valid], None if teacher is None else teacher[valid]
    agreement = None if teacher is None else measure_agreement(logits, teacher, task=task)
    if labels is None:
        return Quality(task, examples, agreement=agreement)
    metrics = {
        "classification": _measure_classification,
        "segmentation": _measure_segmentation,
        "multilabel": _measure_multilabel,
        "regression": _measure_regression,
    }[task](logits, labels)
    return Quality(task, examples, agreement=agreement, at_chance=at_chance, **metrics)


def measure_agreement(logits: np.ndarray, teacher: np.ndarray, *, task: str) -> float | None:
    """The fraction of predicted classes on which two models agree; None for regression."""
    if task == "regression":
        return None
    if task == "multilabel":
        return float(np.mean((logits > 0) == (teacher > 0)))
    return float(np.mean(logits.argmax(-1) == teacher.argmax(-1)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _measure_classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    correct = logits.argmax(-1) == labels
    log_probabilities = _log_softmax(logits)
    of_label = np.take_along_axis(log_probabilities, labels[:, None], -1)
    low, high = wilson_interval(int(correct.sum()), len(correct))
    counts = np.bincount(labels, minlength=logits.shape[-1])
    hits = np.bincount(labels[correct], minlength=logits.shape[-1])
    above = (logits > np.take_along_axis(logits, labels[:, None], -1)).sum(-1)
    return {
        "accuracy": float(correct.mean()),
        "low": low,
        "high": high,
        "loss": float(-of_label.mean()),
        "top5": float((above < 5).mean()) if logits.shape[-1] > 5 else None,
        "ece": measure_calibration_error(np.exp(log_probabilities.max(-1)), correct),
        "balanced_accuracy": float((hits[counts > 0] / counts[counts > 0]).mean()),
        "macro_f1": _compute_macro_f1(labels, logits.argmax(-1), logits.shape[-1]),
    }


def measure_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error over 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599)."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, confidence - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(correct))


def _compute_macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean F1 over the classes that occur among the labels or predictions."""
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    total = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    present = total > 0
    return float((2 * hits[present] / total[present]).mean())


def _measure_segmentation(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    classes = logits.shape[-1]
    predicted = logits.argmax(-1)
    of_label = np.take_along_axis(_log_softmax(logits), labels[..., None], -1)
    counts = np.bincount((labels * classes + predicted).ravel(), minlength=classes * classes)
    table = counts.reshape(classes, classes)
    hits, union = np.diag(table), table.sum(0) + table.sum(1) - np.diag(table)
    present = union > 0
    return {
        "accuracy": float((predicted == labels).mean()),
        "loss": float(-of_label.mean()),
        "mean_iou": float((hits[present] / union[present]).mean()),
    }


def _measure_multilabel(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    predicted, truth = logits > 0, labels > 0.5
    hits = (predicted & truth).sum(0)
    total = predicted.sum(0) + truth.sum(0)
    f1 = np.divide(2 * hits, total, out=np.ones(len(hits)), where=total > 0)
    loss = np.maximum(logits, 0) - logits * truth + np.log1p(np.exp(-np.abs(logits)))
    return {
        "accuracy": float((predicted == truth).mean()),
        "loss": float(loss.mean()),
        "macro_f1": float(f1.mean()),
        "micro_f1": float(2 * hits.sum() / max(total.sum(), 1)),
        "mean_average_precision": _compute_mean_average_precision(logits, truth),
    }


def _compute_mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Mean average precision over the labels that occur; equal scores have the same rank."""
    precisions = []
    for column in np.flatnonzero(truth.any(0)):
        _, rank = np.unique(-scores[:, column], return_inverse=True)
        hits, sizes = np.bincount(rank, truth[:, column]), np.bincount(rank)
        precision = np.cumsum(hits) / np.cumsum(sizes)
        precisions.append((hits * precision).sum() / hits.sum())
    return float(np.mean(precisions)) if precisions else None


def _measure_regression(values: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    labels = labels.reshape(values.shape).astype(np.float64)
    squared = np.square(values - labels)
    spread = np.square(labels - labels.mean(0)).sum()
    return {
        "loss": float(squared.mean()),
        "mae": float(np.abs(values - labels).mean()),
        "rmse": float(np.sqrt(squared.mean())),
        "r2": float(1 - squared.sum() / spread) if spread else None,
        "psnr": _compute_psnr(squared, labels) if labels.ndim == 4 else None,
    }


def _compute_psnr(squared: np.ndarray, labels: np.ndarray) -> float | None:
    """The peak signal-to-noise ratio in dB, as the mean over the images.

    The error of an image is at least 1e-5 of the peak, so that its ratio is at most 100 dB.
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
    """Logits as probabilities in float32; None for values.

    Args:
        logits: (n, ..., outputs).
        output_kind: `logits` (mutually exclusive classes), `sigmoid` (independent classes) or `values`.
    """
    wide = logits.astype(np.float64)
    if output_kind == "values":
        return None
    if output_kind == "sigmoid":
        # The same curve as 1 / (1 + exp(-x)), but tanh cannot overflow.
        return (0.5 + 0.5 * np.tanh(wide / 2)).astype(np.float32)
    powers = np.exp(wide - wide.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)


def decide_classes(logits: np.ndarray, *, task: str) -> np.ndarray | None:
    """The predicted classes (n, ...), or zeros and ones (n, outputs) for `multilabel`; None for regression."""
    if task == "regression":
        return None
    return (logits > 0).astype(np.int64) if task == "multilabel" else logits.argmax(-1)


def measure_classes(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    task: str,
    names: Sequence[str],
    teacher: np.ndarray | None = None,
) -> tuple[ClassQuality, ...]:
    """Precision, recall and F1 of every class.

    Args:
        logits: (n, ..., classes).
        labels: (n, ...) classes (below 0: void), or (n, classes) zeros and ones for `multilabel`.
        task: `classification`, `segmentation` (each pixel is an example) or `multilabel`.
        names: names of the classes.
        teacher: the teacher's logits for the same examples, for the change in F1.
    """
    hits, predicted, present = _count_classes(logits, labels, task, len(names))
    f1 = _compute_f1(hits, predicted, present)
    teacher_f1 = None if teacher is None else _compute_f1(*_count_classes(teacher, labels, task, len(names)))
    return tuple(
        ClassQuality(
            name=name,
            examples=int(present[at]),
            precision=float(hits[at] / predicted[at]) if predicted[at] else None,
            recall=float(hits[at] / present[at]) if present[at] else None,
            f1=_to_float(f1[at]),
            change=None if teacher_f1 is None else _to_float(f1[at] - teacher_f1[at]),
        )
        for at, name in enumerate(names)
    )


def _count_classes(
    logits: np.ndarray, labels: np.ndarray, task: str, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each class was predicted correctly, was predicted, and occurs."""
    if task == "multilabel":
        predicted, present = logits > 0, labels > 0.5
        return (predicted & present).sum(0), predicted.sum(0), present.sum(0)
    valid = labels >= 0
    predicted, present = logits.argmax(-1)[valid], labels[valid]
    hits = np.bincount(present[predicted == present], minlength=classes)
    return hits, np.bincount(predicted, minlength=classes), np.bincount(present, minlength=classes)


def _compute_f1(hits: np.ndarray, predicted: np.ndarray, present: np.ndarray) -> np.ndarray:
    total = predicted + present
    return np.divide(2 * hits, total, out=np.full(len(hits), np.nan), where=total > 0)


def _to_float(value: float) -> float | None:
    """A float; None for NaN, for a class that neither occurs nor is predicted."""
    return None if np.isnan(value) else float(value)


def evaluate_split(
    network: Network,
    split: Examples,
    *,
    task: str,
    on_event: OnEvent,
    teacher: np.ndarray | None = None,
    batch_size: int = 256,
) -> tuple[Quality, np.ndarray]:
    """The quality of a network on a split, and its logits."""

    def report(done: int) -> None:
        on_event(Progress("evaluation", done, len(split), "examples"))

    ask = Predictor(network, batch_size=batch_size)
    logits = ask(split.take, len(split), on_batch=report)[LOGITS]
    return measure_quality(logits, split.all_labels(), task=task, teacher=teacher), logits
