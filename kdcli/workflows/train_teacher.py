"""kd train-teacher: train the recipe's teacher on the labels, with the same loop that trains a student."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdcli.data.dataset import fingerprint, open_dataset
from kdcli.data.views import Views
from kdcli.distillation.objective import Term
from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent, Planned, ignore
from kdcli.losses.labels import Labels
from kdcli.runs.results import FinishedRun, Plan, RunResult
from kdcli.workflows.asking import ask, require
from kdcli.workflows.carrying_out import carry_out
from kdcli.workflows.fitting import Clock, Fit, monitored, with_length
from kdcli.workflows.job import Job
from kdcli.workflows.networks import open_network
from kdcli.workflows.placing import Place, check_inputs, find_place
from kdcli.workflows.previewing import check_before, make_plan
from kdcli.workflows.starting import never, start_tensorflow, strategy_for


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
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    preflight: bool = True,
    stop: Callable[[], int | None] = never,
    on_event: OnEvent = ignore,
) -> RunResult | FinishedRun | Plan:
    """Train a teacher: the recipe's `teacher` with its `train` section and a `labels` term of weight 1.

    Args:
        teacher: a path or a `keras.Model` that gives the architecture (its weights too with
            `teacher.start: file`); from the recipe when left out.
        recipe, data, out, settings, limit, batch_size, seed, epochs, devices, threads, resume, overwrite,
            dry_run, preflight, stop, on_event: as in `kdcli.distill`.

    Returns:
        The finished run, with `teacher.keras`. With `dry_run` the plan.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> run = kdcli.train_teacher(recipe="digits", out="runs/teacher")   # doctest: +SKIP
    """
    asked = ask(
        recipe,
        settings=settings,
        teacher=teacher,
        data=data,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        devices=devices,
    )
    place = find_place("train-teacher", asked, out=out, resume=resume, overwrite=overwrite)
    if place.finished is not None:
        return place.finished
    job = _open(place, threads=threads, stop=stop, on_event=on_event)
    plan = make_plan(job, check_before(job) if preflight else (), measured=dry_run)
    on_event(Planned(plan))
    return plan if dry_run else carry_out(job, place)


def _open(place: Place, *, threads: int | None, stop: Callable[[], int | None], on_event: OnEvent) -> Job:
    asked, recipe = place.asked, place.asked.recipe
    require(asked, "data", "teacher")
    clock, seed = Clock(), recipe.train.seed
    start_tensorflow(threads=threads, seed=seed)
    ignored = [loss.label for loss in recipe.losses or () if loss.needs_teacher]
    if ignored:
        on_event(Note(f"a teacher learns from labels alone: {', '.join(ignored)} of the recipe is left out"))
    since = time.perf_counter()
    dataset = open_dataset(recipe.data, seed=seed, arrays=asked.arrays)
    clock.lap("data", since)
    if not dataset.labelled:
        raise UsageError("train-teacher needs labels, and the data has none", hint="leave data.labels at auto")
    strategy = strategy_for(recipe.train.devices)
    with strategy.scope():
        teacher = open_network(
            "teacher",
            given=asked.models.get("teacher"),
            source=recipe.teacher.model,
            start=recipe.teacher.start,
            dataset=dataset,
            section=recipe.teacher,
            seed=seed,
            on_event=on_event,
        )
    # Nobody answers here, so every epoch sees a new view, also where a student's teacher would keep some.
    views = Views(recipe.data.augment, seed=seed, count=None, examples=len(dataset.train))
    views.check(dataset.train.shapes)
    train = with_length(recipe.train, len(dataset.train))
    monitor = monitored(train, dataset, with_teacher=False)
    labels = next((loss for loss in recipe.losses or () if isinstance(loss, Labels)), Labels())
    term = Term(labels.model_copy(update={"weight": 1.0, "warmup": 0.0}))
    fit = Fit(recipe, train, dataset, views, teacher.network, (term,), strategy, monitor, on_event, stop)
    resolved: dict[tuple[str | int, ...], Any] = {
        ("data", "task"): dataset.task,
        ("teacher", "start"): teacher.start,
        ("teacher", "output_kind"): teacher.network.output_kind,
        ("teacher", "input", "scale"): next(iter(teacher.network.preparations.values())).scale,
    }
    if recipe.train.steps is None:
        resolved["train", "epochs"] = recipe.train.epochs or 10
    inputs = {
        "teacher": {"path": str(teacher.path) if teacher.path else None, "sha256": teacher.sha256},
        "data": {"name": dataset.name, "sha256": fingerprint(dataset)},
    }
    check_inputs(place, inputs)
    return Job("train-teacher", asked, fit, teacher, None, resolved, inputs, clock)
