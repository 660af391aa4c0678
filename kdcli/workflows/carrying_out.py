"""From a job that is ready to a finished run: answers, training, test, files."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from kdcli.distillation.objective import teacher_taps
from kdcli.distillation.targets import LiveTargets, Targets, answer_once, logits_of, recorded_targets
from kdcli.errors import Interrupted, LockedError, TrainingError
from kdcli.evaluation.footprint import file_bytes
from kdcli.evaluation.gates import figures, judge
from kdcli.events import Event, Note, Progress
from kdcli.lazy import tf
from kdcli.models.recorded import RecordedNetwork
from kdcli.models.runner_network import explaining
from kdcli.runs.directory import Run
from kdcli.runs.gated import GateResult
from kdcli.runs.recording import versions
from kdcli.runs.results import RunResult, relative
from kdcli.workflows.finishing import write_end, write_start
from kdcli.workflows.fitting import evaluate_split, write_model, write_predictions
from kdcli.workflows.job import Job
from kdcli.workflows.placing import Place
from kdcli.workflows.recorded_teacher import answered_splits
from kdcli.workflows.starting import device_record


def carry_out(job: Job, place: Place) -> RunResult:
    """Let the teacher answer, train, measure, write; the directory is made once the answers are there.

    Raises:
        Interrupted: `stop` said so; training is saved, answering is not.
        TrainingError: a value that is not finite.
        StorageError: the directory cannot be written.
        ModelError: a teacher in a process of its own that died.
    """
    with explaining(job.teacher.network if job.teacher else None):
        return _carried_out(job, place)


def _carried_out(job: Job, place: Place) -> RunResult:
    since = time.perf_counter()
    targets = _targets(job)
    _answer_validation(job)
    job.clock.lap("teacher", since)
    run = place.open()
    try:
        if place.earlier is None and run.environment.exists():
            raise LockedError(
                f"{run.path} was taken by another run meanwhile", hint="the same command with --resume"
            )
        for text in _changed_since(job, place, died=run.died):
            job.fit.on_event(Note(text, warning=True))
        if place.earlier is None:
            write_start(
                run,
                command=job.command,
                requested=job.asked.recipe,
                resolved=job.recipe,
                inputs=job.inputs,
                trust=job.asked.trust,
                device=device_record(job.fit.strategy),
            )
        since = time.perf_counter()
        trained = job.fit.run(run, targets)
        # A run that went on has the seconds of all its processes.
        job.clock.took("training", trained.seconds, since)
        result = _measured(job, run, trained, targets)
        write_end(
            run, result, recipe=job.recipe, class_names=job.fit.dataset.class_names, model=job.trained.to_json()
        )
    except Interrupted as interrupted:
        interrupted.run = run.path
        raise
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise TrainingError(
            f"out of memory at batch size {job.fit.train.batch_size}",
            hint="another run with a smaller --batch-size",
        ) from error
    finally:
        run.close()
    return result


def _changed_since(job: Job, place: Place, *, died: bool) -> list[str]:
    """What the first start did not have: reasons why a run that goes on may not end bit for bit the same."""
    if place.earlier is None:
        return []
    now = {**device_record(job.fit.strategy), "versions": versions()}
    texts = [
        f"not bit-identical to an uninterrupted run: {name} was {place.earlier.get(name)}, is {now[name]}"
        for name in ("threads", "devices", "versions")
        if place.earlier.get(name) != now[name]
    ]
    if died:
        size = job.fit.train.batch_size
        texts.append(
            f"the last process in {place.path} ended without a word: killed, or out of memory at batch {size} "
            "(then start another run with a smaller --batch-size)"
        )
    return texts


def _measured(job: Job, run: Run, trained: Any, targets: Targets | None) -> RunResult:
    since = time.perf_counter()
    fit, dataset, network = job.fit, job.fit.dataset, job.trained.network

    def told(event: Event) -> None:
        fit.on_event(event)
        code = fit.stop()
        if code is not None:
            raise Interrupted("stopped while evaluating; training is done and saved", exit_code=code)

    measured: dict[str, Any] = {"task": dataset.task, "on_event": told}
    validation = test = teacher_test = answers = None
    if dataset.validation is not None:
        validation, _ = evaluate_split(network, dataset.validation, **measured)
    if dataset.test is not None:
        if job.teacher is not None and not isinstance(job.teacher.network, RecordedNetwork):
            ask_teacher = partial(evaluate_split, job.teacher.network, dataset.test, **measured)
            teacher_test, answers = job.once(("test", *job.teacher_key), ask_teacher)
        test, logits = evaluate_split(network, dataset.test, teacher=answers, **measured)
        write_predictions(run, logits, dataset.test, task=dataset.task)
    path = write_model(run, job.role, network)
    size = file_bytes(path)
    job.clock.lap("evaluation", since)
    unmeasured = {"accuracy": None, "loss": None, "examples": 0}
    teacher = None
    if job.teacher is not None:
        teacher = {
            "path": relative(job.teacher.path) if job.teacher.path else None,
            "accuracy": teacher_test.accuracy if teacher_test else None,
            "agreement": test.agreement if test else None,
        }
    gates: tuple[GateResult, ...] = ()
    if job.gates and test is not None:
        accuracy = teacher_test.accuracy if teacher_test else None
        known = figures(test, size=size, parameters=network.parameters, teacher_accuracy=accuracy)
        gates = judge(job.gates, {relative(path): known})
    return RunResult(
        run=run.path,
        model_path=path,
        task=dataset.task,
        parameters=network.parameters,
        bytes=size,
        epochs=trained.epochs,
        steps=trained.steps,
        seed=fit.train.seed,
        best_epoch=trained.best_epoch,
        validation=validation.to_validation() if validation else unmeasured,
        test=test,
        seconds=job.clock.to_json(),
        examples_per_second=round(trained.examples_per_second, 1),
        teacher=teacher,
        targets=_targets_record(job, targets),
        gates=gates,
    )


def _targets_record(job: Job, targets: Targets | None) -> dict[str, Any] | None:
    if job.teacher is None:
        return None
    views = job.fit.views.count if job.fit.views.count is not None else "all"
    size = targets.bytes if targets is not None else 0
    return {"mode": job.mode, "hit": job.hit, "bytes": size, "views": views, "precision": "float32"}


def _targets(job: Job) -> Targets | None:
    """The teacher's answers; None when no term asks for them."""
    if job.teacher is None or not any(term.loss.needs_teacher for term in job.fit.terms):
        return None
    taps, views, train = teacher_taps(job.fit.terms), job.fit.views, job.fit.dataset.train
    if isinstance(job.teacher.network, RecordedNetwork):
        return recorded_targets(job.teacher.network, train)
    if job.mode == "live":
        return LiveTargets(job.teacher.network, taps)
    total = len(train) * (views.count or 1)

    def told(done: int) -> None:
        job.fit.on_event(Progress("teacher", done, total, "examples"))
        code = job.fit.stop()
        if code is not None:
            raise Interrupted("stopped while the teacher was answering; this start made no step", exit_code=code)

    key = ("targets", *job.teacher_key, taps, views.count)
    job.hit = key in job.once
    return job.once(key, partial(answer_once, job.teacher.network, taps, train, views, on_batch=told))


def _answer_validation(job: Job) -> None:
    """The teacher's answers on validation: agreement is logged, and selects when there are no labels."""
    split = job.fit.dataset.validation
    if job.teacher is None or split is None:
        return
    network = job.teacher.network
    # What is recorded is about the training part only, and may be all that is known.
    if not isinstance(network, RecordedNetwork) or any(split is one for one in answered_splits(job.fit.dataset)):
        key = ("validation", *job.teacher_key)
        job.fit.teacher_validation = job.once(key, lambda: logits_of(network, split))
