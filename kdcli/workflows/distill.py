"""kd distill: train the student under the teacher, and leave a run that others can trust."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdcli.data.dataset import Dataset, fingerprint, open_dataset
from kdcli.data.views import Views
from kdcli.distillation.objective import Term, build_terms, teacher_taps
from kdcli.distillation.targets import bytes_needed, choose_mode
from kdcli.errors import UsageError
from kdcli.events import OnEvent, Planned, ignore
from kdcli.runs.results import FinishedRun, Plan, RunResult
from kdcli.workflows.asking import Asked, ask, require
from kdcli.workflows.carrying_out import carry_out
from kdcli.workflows.fitting import Clock, Fit, monitored, with_length
from kdcli.workflows.job import Job
from kdcli.workflows.networks import Opened, open_network
from kdcli.workflows.placing import Place, check_inputs, find_place
from kdcli.workflows.previewing import check_before, make_plan
from kdcli.workflows.starting import never, start_tensorflow, strategy_for


def distill(
    *,
    teacher: Any = None,
    student: Any = None,
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
    """Distil a teacher into a student.

    Args:
        teacher, student: a path, a run directory or a `keras.Model`; from the recipe when left out.
        recipe: a shipped name, a path, a mapping or a `Recipe`; `soft-targets` when left out.
        data: a name, a path, (x, y), (x_train, y_train, x_test, y_test) or a mapping of arrays.
        out: the run directory; a new one below `runs/` when left out.
        settings: `path=value` texts, as for `--set`.
        limit, batch_size, seed, epochs, devices: settings by name.
        threads: of TensorFlow, before it has started.
        resume, overwrite: what to do with a run that lies in `out`.
        dry_run: open everything, run one step in memory, return the plan and write nothing.
        preflight: refuse what cannot work.
        stop: asked between steps; an exit code (130, 143) stops after saving.
        on_event: told of progress.

    Returns:
        The finished run; `run.test.accuracy`, `run.model_path`. With `dry_run` the plan.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> run = kdcli.distill(recipe="digits", epochs=1, out="runs/a")   # doctest: +SKIP
        >>> run.test.accuracy                                              # doctest: +SKIP
    """
    asked = ask(
        recipe,
        settings=settings,
        teacher=teacher,
        student=student,
        data=data,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        devices=devices,
    )
    place = find_place("distill", asked, out=out, resume=resume, overwrite=overwrite)
    if place.finished is not None:
        return place.finished
    job = _open(place, threads=threads, stop=stop, on_event=on_event)
    plan = make_plan(job, check_before(job) if preflight else (), measured=dry_run)
    on_event(Planned(plan))
    return plan if dry_run else carry_out(job, place)


def _open(place: Place, *, threads: int | None, stop: Callable[[], int | None], on_event: OnEvent) -> Job:
    asked, recipe = place.asked, place.asked.recipe
    require(asked, "data", "teacher", "student")
    if recipe.losses is None:
        raise UsageError(f"the recipe {asked.name!r} has no losses", hint="--recipe soft-targets")
    clock, seed = Clock(), recipe.train.seed
    start_tensorflow(threads=threads, seed=seed)
    since = time.perf_counter()
    dataset = open_dataset(recipe.data, seed=seed, arrays=asked.arrays)
    clock.lap("data", since)
    _check_labels(recipe.losses, dataset)
    strategy = strategy_for(recipe.train.devices)
    with strategy.scope():
        teacher = _side("teacher", asked, dataset, "file", on_event)
        student = _side("student", asked, dataset, recipe.student.start, on_event)
        terms = build_terms(recipe.losses, student=student.network, teacher=teacher.network)
    count = _view_count(recipe)
    views = Views(recipe.data.augment, seed=seed, count=count, examples=len(dataset.train))
    views.check(dataset.train.shapes)
    kept = count or 0
    needed = bytes_needed(teacher.network, teacher_taps(terms), len(dataset.train), kept)
    mode, reason = choose_mode(recipe.teacher.targets, needed=needed, keeps=count is not None)
    if recipe.teacher.targets == "memory" and mode == "live":
        raise UsageError(
            f"teacher.targets: memory cannot be: {reason}", hint="--set teacher.views=4 keeps 4 views"
        )
    train = with_length(recipe.train, len(dataset.train))
    monitor = monitored(train, dataset, with_teacher=True)
    fit = Fit(recipe, train, dataset, views, student.network, terms, strategy, monitor, on_event, stop)
    resolved = _resolved(recipe, dataset, teacher, student, terms, mode=mode, views=count)
    inputs = {
        "teacher": {"path": str(teacher.path) if teacher.path else None, "sha256": teacher.sha256},
        "student": {"path": str(student.path) if student.path else None, "sha256": student.sha256},
        "data": {"name": dataset.name, "sha256": fingerprint(dataset)},
    }
    check_inputs(place, inputs)
    return Job("distill", asked, fit, student, teacher, resolved, inputs, clock, mode=mode, mode_reason=reason)


def _side(role: str, asked: Asked, dataset: Dataset, start: str, on_event: OnEvent) -> Opened:
    section = getattr(asked.recipe, role)
    return open_network(
        role,
        given=asked.models.get(role),
        source=section.model,
        start="file" if start == "auto" else start,
        dataset=dataset,
        section=section,
        seed=asked.recipe.train.seed,
        on_event=on_event,
    )


def _check_labels(losses: Any, dataset: Dataset) -> None:
    for loss in losses:
        if loss.needs_labels and not dataset.labelled:
            raise UsageError(
                f"losses.{loss.label} needs labels, and the data has none",
                hint="leave the term out: soft_targets and soft_cross_entropy need no labels",
            )


def _view_count(recipe: Any) -> int | None:
    """Kept views; None is a new one every epoch."""
    if not recipe.data.augment:
        return 1
    return recipe.teacher.views if isinstance(recipe.teacher.views, int) else None


def _resolved(
    recipe: Any,
    dataset: Dataset,
    teacher: Opened,
    student: Opened,
    terms: tuple[Term, ...],
    *,
    mode: str,
    views: int | None,
) -> dict[tuple[str | int, ...], Any]:
    values: dict[tuple[str | int, ...], Any] = {
        ("data", "task"): dataset.task,
        ("student", "start"): student.start,
        ("teacher", "targets"): mode,
        ("teacher", "views"): "all" if views is None else views,
    }
    if recipe.train.steps is None:
        values["train", "epochs"] = recipe.train.epochs or 10
    for role, opened in (("teacher", teacher), ("student", student)):
        values[role, "output_kind"] = opened.network.output_kind
        values[role, "input", "scale"] = next(iter(opened.network.preparations.values())).scale
    for number, term in enumerate(terms):
        if term.pairs:
            values["losses", number, "teacher_layer"] = [pair.teacher for pair in term.pairs]
            values["losses", number, "student_layer"] = [pair.student for pair in term.pairs]
    return values
