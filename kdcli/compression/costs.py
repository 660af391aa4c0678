"""The measured times from which a schedule follows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcli.compression.candidate_runs import make_run_request
from kdcli.compression.candidates import Candidate
from kdcli.compression.schedule import Costs
from kdcli.compression.subject import SearchSubject
from kdcli.events import Note
from kdcli.jobs.build import build_distillation
from kdcli.jobs.job import Job
from kdcli.jobs.plan import measure_step_seconds, measure_teacher_seconds
from kdcli.jobs.preflight import check_job
from kdcli.jobs.training_findings import training_findings
from kdcli.models.prediction import Predictor
from kdcli.setup.run_location import RunLocation

# Examples on which the evaluation of a student is timed, and seconds that the final file takes beyond its export.
_TIMED_EXAMPLES, _FINISH_SECONDS = 256, 12.0


def measure_costs(
    subject: SearchSubject, candidates: Sequence[Candidate], *, out: Path, export_seconds: float
) -> Costs:
    """Time the steps of the candidates with the fewest and the most FLOPs; the others are interpolated.

    Args:
        subject: data and teacher.
        candidates: to be trained.
        out: of the search; nothing is written.
        export_seconds: seconds of a search for a candidate's size, which exports files.

    Raises:
        ModelError: a finding of the preflight.
    """
    # The student of a candidate in two steps does not exist yet; it costs what the one in one step does.
    existing = [one for one in candidates if one.larger is None]
    ordered = sorted(existing, key=lambda one: (one.flops or 0, one.parameters or 0))
    measured: dict[str, float] = {}
    findings: dict[str, None] = {}
    build = teacher = evaluation = 0.0
    for candidate in {one.name: one for one in (ordered[0], ordered[-1])}.values():
        since = time.perf_counter()
        job = build_distillation(RunLocation(out, make_run_request(subject, candidate, None, root=out)))
        built = time.perf_counter() - since
        assert job.teacher_outputs is not None
        # The largest candidate may be the teacher itself, which the preflight of a single run refuses.
        if subject.request.preflight and candidate.parameters != subject.first.parameters:
            findings |= dict.fromkeys((*training_findings(job), *check_job(job)))
        since = time.perf_counter()
        _, targets = job.teacher_outputs.sample_targets()
        measured[candidate.name] = measure_step_seconds(job, targets)
        build = max(build, built + time.perf_counter() - since)
        seconds = sum(map(measure_teacher_seconds, job.teacher_outputs.members))
        teacher = seconds / len(job.dataset.train) / (job.views.count or 1)
        evaluation = max(evaluation, _time_evaluation(job))
    for finding in findings:
        subject.request.context.on_event(Note(finding))
    flops = {one.name: one.flops for one in candidates}
    examples = len(subject.validation) + len(subject.dataset.test or ())
    return Costs(
        steps=_interpolate(measured, flops, known=flops),
        build=build,
        teacher=teacher,
        evaluation=evaluation,
        # Files run one example at a time, at most as fast as the student in training.
        finish=_FINISH_SECONDS + 2 * export_seconds + 2 * examples * evaluation,
        larger=_interpolate(
            measured, {one.name: one.larger_flops for one in candidates if one.larger is not None}, known=flops
        ),
    )


def _time_evaluation(job: Job) -> float:
    """Seconds of the student for one example, after compiling."""
    predict, count = Predictor(job.trained.network), min(_TIMED_EXAMPLES, len(job.dataset.train))
    predict(job.dataset.train.take, count)
    since = time.perf_counter()
    predict(job.dataset.train.take, count)
    return (time.perf_counter() - since) / count


def _interpolate(
    measured: Mapping[str, float], flops: Mapping[str, int | None], *, known: Mapping[str, int | None]
) -> dict[str, float]:
    """The step times of students, on the line through the measured ones over FLOPs.

    Args:
        measured: seconds of the candidates with the fewest and the most FLOPs.
        flops: of the students.
        known: FLOPs of the measured candidates.
    """
    least, most = (choose(measured, key=lambda name: known[name] or 0) for choose in (min, max))
    low, high = known[least], known[most]
    times = {}
    for name, count in flops.items():
        # Unknown FLOPs count as the largest.
        part = 1.0 if count is None or not low or not high or high == low else (count - low) / (high - low)
        times[name] = measured[least] + part * (measured[most] - measured[least])
    return times
