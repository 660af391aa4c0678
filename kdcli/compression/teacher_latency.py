"""The teacher's latency in the runtime of the file, and the bound in milliseconds that follows from it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from kdcli.artifacts.export_source import require_exportable
from kdcli.compression.request import CompressRequest
from kdcli.compression.subject import SearchSubject
from kdcli.errors import ModelError
from kdcli.evaluation.latency.command import run_latency_command
from kdcli.evaluation.latency.measure import time_models
from kdcli.setup.teacher_file import TeacherFile, open_teacher_file

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
    with ExitStack() as resources:
        file = open_search_teacher(subject, compress, resources)
        if compress.latency_command is not None:
            return run_latency_command(compress.latency_command, file.path)
        runner, requests = file.at_batch(subject.timed_examples)(file.serving.batch or 1)
        session = time_models(
            {"teacher": runner}, {"teacher": requests}, seed=subject.request.recipe.data_seed, seconds=_SECONDS
        )
        return session.summarize("teacher").p50_ms


def open_search_teacher(subject: SearchSubject, compress: CompressRequest, resources: ExitStack) -> TeacherFile:
    """Convert the first teacher to the format of the file, in its largest quantization, and open it.

    Args:
        subject: data and teacher.
        compress: gives the format.
        resources: closes the runtime.

    Raises:
        KdError: the teacher cannot be converted.
    """
    opened, context = subject.teachers[0], subject.request.context
    return open_teacher_file(
        require_exportable(opened.network),
        compress.forms[-1],
        inside=True,
        sha256=opened.sha256,
        threads=context.threads,
        opened=resources,
        on_event=context.on_event,
    )
