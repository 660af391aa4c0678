"""The teacher's latency in the runtime of the file, and the bound in milliseconds that follows from it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from kdcli.artifacts.export_source import require_exportable
from kdcli.compression.request import CompressRequest
from kdcli.compression.subject import SearchSubject
from kdcli.errors import ModelError
from kdcli.evaluation.latency.command import run_latency_command
from kdcli.evaluation.latency.measure import time_models
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES
from kdcli.setup.teacher_file import open_teacher_file

_SECONDS = 1.0


@dataclass(frozen=True)
class LatencyBound:
    """The bound on the latency of the file.

    Args:
        milliseconds: the bound; None without one.
        teacher_ms: median latency of the teacher in the same runtime; None unless a ratio is bounded.
    """

    milliseconds: float | None = None
    teacher_ms: float | None = None


def find_latency_bound(subject: SearchSubject, compress: CompressRequest) -> LatencyBound:
    """The bound on the latency; the teacher is timed if a ratio is bounded.

    Raises:
        ModelError: a ratio is bounded, and the teacher cannot be timed in the runtime of the file.
    """
    targets = compress.targets
    if targets.max_latency_ratio is None:
        return LatencyBound(targets.max_latency_ms)
    if len(subject.teachers) > 1:
        raise ModelError(
            "--max-latency-ratio needs a single teacher (got an ensemble)", hint="--max-latency-ms MS"
        )
    teacher_ms = _time_teacher(subject, compress)
    bounds = [targets.max_latency_ratio * teacher_ms]
    bounds += [targets.max_latency_ms] if targets.max_latency_ms is not None else []
    return LatencyBound(min(bounds), teacher_ms)


def _time_teacher(subject: SearchSubject, compress: CompressRequest) -> float:
    opened, request = subject.teachers[0], subject.request
    form = compress.forms[-1]
    with ExitStack() as resources:
        file = open_teacher_file(
            require_exportable(opened.network),
            form,
            inside=True,
            sha256=opened.sha256,
            threads=request.context.threads,
            opened=resources,
            on_event=request.context.on_event,
        )
        if compress.latency_command is not None:
            return run_latency_command(compress.latency_command, file.path)
        examples = subject.calibration
        raw = examples.take(np.arange(min(POOL_EXAMPLES, len(examples))))
        runner, requests = file.at_batch(raw)(file.serving.batch or 1)
        session = time_models(
            {"teacher": runner}, {"teacher": requests}, seed=request.recipe.data_seed, seconds=_SECONDS
        )
        return session.summarize("teacher").p50_ms
