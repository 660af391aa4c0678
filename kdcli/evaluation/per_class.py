"""How each class fares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdcli.runs.results import ClassQuality


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
        labels: (n, ...) classes (below 0: void), or (n, classes) of zeros and ones for `multilabel`.
        task: `classification`, `segmentation` (a pixel is an example) or `multilabel`.
        names: of the classes.
        teacher: the teacher's logits on the same examples, for the change of F1.
    """
    own = _counts(logits, labels, task, len(names))
    other = None if teacher is None else _f1(*_counts(teacher, labels, task, len(names)))
    hits, named, present = own
    f1 = _f1(*own)
    return tuple(
        ClassQuality(
            name=name,
            examples=int(present[at]),
            precision=float(hits[at] / named[at]) if named[at] else None,
            recall=float(hits[at] / present[at]) if present[at] else None,
            f1=_known(f1[at]),
            change=None if other is None else _known(f1[at] - other[at]),
        )
        for at, name in enumerate(names)
    )


def _counts(
    logits: np.ndarray, labels: np.ndarray, task: str, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each class was named rightly, was named, and is there."""
    if task == "multilabel":
        named, present = logits > 0, labels > 0.5
        return (named & present).sum(0), named.sum(0), present.sum(0)
    valid = labels >= 0
    named, present = logits.argmax(-1)[valid], labels[valid]
    hits = np.bincount(present[named == present], minlength=classes)
    return hits, np.bincount(named, minlength=classes), np.bincount(present, minlength=classes)


def _f1(hits: np.ndarray, named: np.ndarray, present: np.ndarray) -> np.ndarray:
    total = named + present
    return np.divide(2 * hits, total, out=np.full(len(hits), np.nan), where=total > 0)


def _known(value: float) -> float | None:
    """None for a class that neither occurs nor is named."""
    return None if np.isnan(value) else float(value)
