"""Execute a job: teacher outputs, training, evaluation, run files."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.distillation.targets import Targets
from kdcli.errors import Interrupted, LockedError, TrainingError
from kdcli.evaluation.chance import describe_chance
from kdcli.evaluation.footprint import count_file_bytes
from kdcli.evaluation.gates import collect_metrics, describe_export_gates, judge_gates
from kdcli.evaluation.quality import evaluate_split, measure_quality
from kdcli.events import Event, Note
from kdcli.jobs.job import Job
from kdcli.jobs.run_files import write_end, write_start
from kdcli.jobs.training import train_job, write_model, write_test_predictions
from kdcli.lazy import tf
from kdcli.models.runtimes.network import unwrap_failures
from kdcli.models.saved_model.network import FrozenNetwork
from kdcli.runs.directory import Run, wait_for_summary
from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import FinishedRun, RunResult, relativize_path
from kdcli.runs.run_environment import collect_versions
from kdcli.setup.open_teachers import splits_with_outputs
from kdcli.setup.run_location import RunLocation
from kdcli.setup.startup import device_record
from kdcli.teacher.ensemble import teacher_record
from kdcli.training.state import TrainingResult


@dataclass(frozen=True)
class PausedRun:
    """A run that was trained to a step before its last one; resuming it goes on from there.

    Args:
        steps: number of steps trained.
        epochs: number of whole epochs.
        seconds: of training so far, over all processes.
        logits: (examples, outputs) of the validation split with the weights at that step.
    """

    steps: int
    epochs: int
    seconds: float
    logits: np.ndarray


def execute(job: Job, location: RunLocation) -> RunResult | FinishedRun:
    """Compute the teacher's outputs, train, evaluate and write the run.

    The directory is created only after the teacher's outputs are complete.

    Args:
        job: built and checked.
        location: of the run.

    Returns:
        The result; a worker that is not the chief returns the run that the chief wrote.

    Raises:
        Interrupted: `stop` returned an exit code; the training is saved, unfinished teacher outputs are not.
        TrainingError: a value is not finite, or memory ran out.
        StorageError: the directory cannot be written.
        ModelError: the process of a teacher's runtime died.
    """
    for text in describe_export_gates(job.exported_gates, relativize_path(location.path)):
        job.request.context.on_event(Note(text))
    result = _run_job(job, location)
    assert not isinstance(result, PausedRun)
    return result


def execute_until(job: Job, location: RunLocation, steps: int) -> RunResult | PausedRun:
    """Train a run to a step and pause it there; a run that ends before is finished, as by `execute`.

    Args:
        job: built, with a validation split.
        location: of the run.
        steps: number of steps in total.

    Raises:
        KdError: as `execute`.
    """
    result = _run_job(job, location, until=steps)
    assert not isinstance(result, FinishedRun)
    return result


def _run_job(job: Job, location: RunLocation, until: int | None = None) -> RunResult | FinishedRun | PausedRun:
    with ExitStack() as stack:
        for one in job.teacher_outputs.members if job.teacher_outputs else ():
            stack.enter_context(unwrap_failures(one.network))
        return _run_opened(job, location, until)


def _run_opened(job: Job, location: RunLocation, until: int | None) -> RunResult | FinishedRun | PausedRun:
    since = time.perf_counter()
    teacher_outputs = job.teacher_outputs
    targets = teacher_outputs.targets() if teacher_outputs else None
    _compute_validation_outputs(job)
    job.clock.lap("teacher", since)
    if not job.request.context.workers.is_chief:
        return _follow_chief(job, location, targets)
    run = location.open()
    try:
        if location.earlier is None and run.environment.exists():
            raise LockedError(
                f"{run.path}: another run has been started in this directory",
                hint="repeat the command with --resume, or give another --out",
            )
        if run.summary.exists():
            raise LockedError(f"{run.path}: another process has finished this run", hint="repeat the command")
        for text in _list_changes(job, location, died=run.crashed):
            job.request.context.on_event(Note(text, warning=True))
        outputs_record = _record_outputs(job, location, since)
        if location.earlier is None:
            write_start(
                run,
                command=job.command,
                requested=job.request.recipe,
                resolved=job.recipe,
                inputs=job.inputs,
                trust=job.request.trust,
                device=device_record(job.strategy),
                answers=outputs_record,
            )
        job.request.context.workers.barrier()
        since = time.perf_counter()
        trained = _train(job, run, targets, until)
        # A resumed run reports the seconds of all its processes.
        job.clock.set("training", trained.seconds, since)
        if until is not None and trained.steps == until < (job.train.steps or 0):
            return _pause(job, trained)
        if until is not None and until < trained.steps < (job.train.steps or 0):
            raise LockedError(
                f"{run.path}: another process has trained this run further", hint="repeat the command"
            )
        result = _evaluate(job, run, trained)
        write_end(run, result, recipe=job.recipe, class_names=job.dataset.class_names, model=job.trained.to_json())
        job.request.context.workers.barrier()
    except Interrupted as interrupted:
        interrupted.run = run.path
        raise
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise TrainingError(
            f"out of memory at batch size {job.train.batch_size}",
            hint="start another run with a smaller --batch-size",
        ) from error
    finally:
        run.close()
    return result


def _train(job: Job, run: Run, targets: Targets | None, until: int | None = None) -> TrainingResult:
    with job.teacher_outputs.in_precision() if job.teacher_outputs else nullcontext():
        return train_job(job, run, targets, until=until)


def _pause(job: Job, trained: TrainingResult) -> PausedRun:
    split = job.dataset.validation
    assert split is not None
    _, logits = evaluate_split(
        job.trained.network, split, task=job.dataset.task, on_event=job.request.context.on_event
    )
    return PausedRun(trained.steps, trained.epochs, trained.seconds, logits)


def _record_outputs(job: Job, location: RunLocation, since: float) -> dict[str, Any] | None:
    """The time for the teacher's outputs; a resumed run adds the time of its first start."""
    if job.teacher_outputs is None:
        return None
    earlier = (location.earlier or {}).get("answers")
    if earlier:
        job.teacher_outputs.hit = earlier["hit"]
        job.clock.set("teacher", earlier["seconds"] + job.clock.stages["teacher"], since)
    return {"hit": job.teacher_outputs.hit, "seconds": round(job.clock.stages["teacher"], 3)}


def _follow_chief(job: Job, location: RunLocation, targets: Targets | None) -> FinishedRun:
    """Train as a worker that is not the chief, and read the run that the chief writes."""
    job.request.context.workers.barrier()
    run = Run.followed(location.path)
    try:
        _train(job, run, targets)
    except Interrupted as interrupted:
        interrupted.run = run.path
        raise
    job.request.context.workers.barrier()
    document = wait_for_summary(run.path)
    model = run.path_of_model(job.role, folder=isinstance(job.trained.network, FrozenNetwork))
    return FinishedRun(run.path, model, document, followed=True)


def _list_changes(job: Job, location: RunLocation, *, died: bool) -> list[str]:
    """Warnings for a resumed run: changes that may alter its result, and a crash of the process before."""
    if location.earlier is None:
        return []
    now = {**device_record(job.strategy), "versions": collect_versions()}
    texts = [
        f"not bit-identical to an uninterrupted run: {name} was {location.earlier.get(name)}, is now {now[name]}"
        for name in ("threads", "devices", "versions")
        if location.earlier.get(name) != now[name]
    ]
    if died:
        size = job.train.batch_size
        texts.append(
            f"the previous process in {location.path} ended without an error: killed, or out of memory at batch "
            f"size {size} (in that case start another run with a smaller --batch-size)"
        )
    return texts


def _evaluate(job: Job, run: Run, trained: TrainingResult) -> RunResult:
    since = time.perf_counter()
    dataset, network, context = job.dataset, job.trained.network, job.request.context

    def forward(event: Event) -> None:
        context.on_event(event)
        code = context.stop()
        if code is not None:
            raise Interrupted("stopped during the evaluation; the training is finished and saved", exit_code=code)

    options: dict[str, Any] = {"task": dataset.task, "on_event": forward}
    validation = test = teacher_test = teacher_logits = None
    if dataset.validation is not None:
        validation, _ = evaluate_split(network, dataset.validation, **options)
    if dataset.test is not None and job.reads_test:
        if job.teacher_outputs is not None and not job.teacher_outputs.recorded:
            teacher_logits = job.teacher_outputs.split_logits("test", dataset.test)
            teacher_test = measure_quality(teacher_logits, dataset.test.all_labels(), task=dataset.task)
        test, logits = evaluate_split(network, dataset.test, teacher=teacher_logits, **options)
        write_test_predictions(run, logits, dataset.test, task=dataset.task)
    path = write_model(run, job.role, network)
    size = count_file_bytes(path)
    job.clock.lap("evaluation", since)
    split, known = ("test", test) if test is not None else ("validation", validation)
    if known is not None and known.at_chance:
        advice = f"more epochs, another learning rate or {job.role}.input.scale may help"
        context.on_event(Note(f"{describe_chance(known, relativize_path(path), split)}; {advice}", warning=True))
    unmeasured = {"accuracy": None, "loss": None, "examples": 0}
    gates: tuple[GateResult, ...] = ()
    if job.gates and test is not None:
        accuracy = teacher_test.accuracy if teacher_test else None
        metrics = collect_metrics(test, size=size, parameters=network.parameters, teacher_accuracy=accuracy)
        gates = judge_gates(job.gates, {relativize_path(path): metrics})
    return RunResult(
        run=run.path,
        model_path=path,
        task=dataset.task,
        parameters=network.parameters,
        bytes=size,
        epochs=trained.epochs,
        steps=trained.steps,
        seed=job.train.seed,
        best_epoch=trained.best_epoch,
        validation=validation.to_validation() if validation else unmeasured,
        test=test,
        seconds=job.clock.to_json(),
        examples_per_second=round(trained.examples_per_second, 1),
        teacher=teacher_record(job.teacher_outputs, teacher_test, test) if job.teacher_outputs else None,
        targets=_record_targets(job),
        gates=gates,
        stages=job.stages,
    )


def _record_targets(job: Job) -> dict[str, Any] | None:
    if job.teacher_outputs is None:
        return None
    planned = job.teacher_outputs.to_json()
    names = ("mode", "bytes", "views", "precision", "kept", "fingerprint")
    record = {"hit": job.teacher_outputs.hit, **{name: planned[name] for name in names}}
    if "members" in planned:
        members = zip(job.teacher_outputs.members, planned["members"], strict=True)
        record["members"] = [
            {"hit": member.hit, **{name: entry[name] for name in names}} for member, entry in members
        ]
    return record


def _compute_validation_outputs(job: Job) -> None:
    """Compute the teacher's outputs on the validation split, for the agreement after each epoch."""
    split = job.dataset.validation
    if job.teacher_outputs is None or split is None:
        return
    # Recorded outputs cover the training split only, and validation if it was split off from it.
    if not job.teacher_outputs.recorded or any(split is one for one in splits_with_outputs(job.dataset)):
        job.teacher_validation = job.teacher_outputs.split_logits("validation", split)
