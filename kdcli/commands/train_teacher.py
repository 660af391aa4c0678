"""kd train-teacher: train the recipe's teacher on the labels, with the same loop that trains a student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.events import Note, OnEvent, Planned, ignore_event
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.request import make_request
from kdcli.setup.startup import never_stop

if TYPE_CHECKING:
    from kdcli.runs.results import FinishedRun, Plan, RunResult


def train_teacher(
    *,
    teacher: Any = None,
    recipe: Any = None,
    data: Any = None,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    limit: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    devices: str | None = None,
    cache_limit: int | None = None,
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] = (),
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    preflight: bool = True,
    stop: Callable[[], int | None] = never_stop,
    on_event: OnEvent = ignore_event,
) -> RunResult | FinishedRun | Plan:
    """Train a teacher: the recipe's `teacher` with its `train` section and a `labels` term of weight 1.

    Args:
        teacher: a path or a `keras.Model` that gives the architecture (its weights too with
            `teacher.start: file`); from the recipe when left out.
        recipe, data, out, settings, limit, batch_size, seed, epochs, devices, cache_limit, trust, code, threads,
            resume, overwrite, dry_run, preflight, stop, on_event: as in `kdcli.distill`.

    Returns:
        The finished run, with `teacher.keras`. With `dry_run` the plan.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> run = kdcli.train_teacher(recipe="digits", out="runs/teacher")   # doctest: +SKIP
    """
    request = make_request(
        recipe,
        settings=settings,
        teacher=teacher,
        data=data,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        devices=devices,
        trust=trust,
        code=code,
    )
    from kdcli.setup.ensemble_members import refuse_ensemble
    from kdcli.setup.run_location import find_location

    refuse_ensemble(request, command="kd train-teacher")

    location = find_location("train-teacher", request, out=out, resume=resume, overwrite=overwrite)
    if location.finished is not None:
        return location.finished
    # From here on there is work for NumPy and TensorFlow: a bad recipe never gets this far.
    from kdcli.jobs.build import build_label_training
    from kdcli.jobs.execute import execute
    from kdcli.jobs.plan import make_plan
    from kdcli.jobs.preflight import check_job
    from kdcli.setup.context import Context
    from kdcli.setup.workers import worker_group

    ignored = [loss.label for loss in location.request.recipe.losses or () if loss.needs_teacher]
    if ignored:
        on_event(Note(f"a teacher learns from labels alone: {', '.join(ignored)} of the recipe is left out"))
    if location.request.recipe.stages:
        on_event(Note("stages are for the student: kd distill goes through those of the recipe"))
    if cache_limit is not None:
        on_event(Note("--cache-limit is for kd distill and kd compare: nobody answers a teacher in training"))
    if location.request.recipe.gates.gates():
        on_event(Note("gates are for the student: kd distill checks those of the recipe"))
    with worker_group(location, out=out, on_event=on_event) as workers:
        context = Context(threads, stop, on_event, dry_run=dry_run, workers=workers)
        job = build_label_training("teacher", location, context)
        plan = make_plan(job, check_job(job) if preflight else (), measured=dry_run)
        if dry_run:
            return plan
        on_event(Planned(plan))
        return execute(job, location)
