"""The file of a candidate: its conversion, its cost, and its quality on one split beside the teacher's."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.artifacts.converted_file import ConvertedFile, convert_file
from kdcli.artifacts.export_source import ExportSource
from kdcli.compression.metric import PairedMetric
from kdcli.data.examples import Examples
from kdcli.evaluation.parity import compute_outputs, make_file_function, to_logits
from kdcli.evaluation.quality import measure_quality
from kdcli.runs.results import Quality
from kdcli.setup.context import Context
from kdcli.spec import ExportFormat

BATCH_SIZE = 256


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


def convert_source(
    form: ExportFormat, source: ExportSource, path: Path, *, context: Context, resources: ExitStack
) -> ConvertedFile:
    """Convert a source to a file with its preprocessing inside, and compare it on the examples of the source."""
    return convert_file(
        form,
        source.network,
        path,
        inside=True,
        batch=None,
        calibration=source.shown,
        examples=source.examples,
        reference=source.reference,
        batch_size=BATCH_SIZE,
        threads=context.threads,
        resources=resources,
        on_event=context.on_event,
    )


def compute_logits(file: ConvertedFile, source: ExportSource, examples: Examples) -> np.ndarray:
    """The outputs of a file for the examples of another split, as logits."""
    function = make_file_function(file.runner.predict, file.serving)
    outputs = compute_outputs(function, examples, batch_size=BATCH_SIZE, on_batch=lambda done: None)
    return to_logits(outputs, source.reference)


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
