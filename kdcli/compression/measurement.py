"""The cost and the quality of a file on one split, beside those of the teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.compression.metric import PairedMetric
from kdcli.evaluation.quality import measure_quality
from kdcli.runs.results import Quality


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The cost and the quality of a file on one split.

    Args:
        split: of the quality.
        quality: every metric of the task.
        value, teacher: of the metric, for the file and for the teacher.
        drop, low, high: by how much the file is worse than the teacher, with the paired 95% interval.
        bytes: of the file.
        flops: for one example; None if unknown.
        teacher_quality: every metric of the teacher on the split.
        latency: p50, p90, runtime and threads; None if it was not timed.
        teacher_latency: of the teacher in the same runtime; None if it was not timed.
        ratio: of the median latencies, with its interval.
        teacher_bytes: of the teacher's file in the same format and float32; None if there is none.
        ram_bytes: memory for the tensors on a microcontroller; None for other formats.
        doubts: why the latency session is not stable.
    """

    split: str
    quality: Quality
    value: float
    teacher: float
    drop: float
    low: float
    high: float
    bytes: int
    teacher_quality: Quality
    flops: int | None = None
    latency: dict[str, Any] | None = None
    teacher_latency: dict[str, Any] | None = None
    ratio: dict[str, float] | None = None
    teacher_bytes: int | None = None
    ram_bytes: int | None = None
    doubts: tuple[str, ...] = ()


def measure(metric: PairedMetric, logits: np.ndarray, *, split: str, size: int, flops: int | None) -> Measured:
    """Measure the logits of a file on a split."""
    outputs = metric.reduce(logits)
    low, high = metric.interval(outputs)
    quality = measure_quality(logits, metric.labels, task=metric.task)
    if metric.task != "regression":
        quality = replace(quality, agreement=replace(metric, name="agreement").measure(outputs))
    teacher = quality
    if metric.task != "segmentation":
        teacher = measure_quality(metric.teacher, metric.labels, task=metric.task)
    return Measured(
        split=split,
        quality=quality,
        value=metric.measure(outputs),
        teacher=metric.measure_teacher(),
        drop=metric.drop(outputs),
        low=low,
        high=high,
        bytes=size,
        teacher_quality=teacher if teacher is not quality else Quality(metric.task, len(outputs)),
        flops=flops,
    )
