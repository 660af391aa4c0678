"""From a recipe to a job that is ready to start: data, networks, terms and views, all opened and resolved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from kdcli.data.dataset import Dataset, fingerprint, open_dataset, with_outputs
from kdcli.data.views import Views
from kdcli.distillation.objective import Term, build_terms, teacher_taps
from kdcli.distillation.targets import bytes_needed, choose_mode
from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent
from kdcli.lazy import keras
from kdcli.losses.labels import Labels
from kdcli.recipe.document import Path
from kdcli.recipe.sections import Recipe
from kdcli.workflows.asking import Asked, require
from kdcli.workflows.fitting import Clock, Fit, monitored, with_length
from kdcli.workflows.job import Job
from kdcli.workflows.networks import Opened, open_network
from kdcli.workflows.placing import Place, check_inputs
from kdcli.workflows.refusing import check_effects, check_heads
from kdcli.workflows.starting import start_tensorflow, strategy_for
from kdcli.zoo import File


def open_distillation(
    place: Place, *, threads: int | None, stop: Callable[[], int | None], on_event: OnEvent
) -> Job:
    """Everything that a distillation needs.

    Raises:
        KdError: what is missing, cannot be read or does not fit.
    """
    asked, recipe = place.asked, place.asked.recipe
    require(asked, "data", "teacher", "student")
    if not isinstance(recipe.teacher.model, File | None) and "teacher" not in asked.models:
        raise UsageError(
            f"the teacher is a zoo model ({recipe.teacher.model.name}), which has no trained weights",
            hint=f"kd train-teacher --recipe {asked.name} --out runs/teacher, then --teacher runs/teacher",
        )
    if recipe.losses is None:
        raise UsageError(f"the recipe {asked.name!r} has no losses", hint="--recipe soft-targets")
    clock, seed = Clock(), recipe.train.seed
    start_tensorflow(threads=threads, seed=seed)
    since = time.perf_counter()
    dataset = open_dataset(recipe.data, seed=seed, arrays=asked.arrays)
    clock.lap("data", since)
    strategy = strategy_for(recipe.train.devices)
    check_effects(recipe, recipe.losses, dataset, replicas=strategy.num_replicas_in_sync)
    with strategy.scope():
        teacher = _side("teacher", asked, dataset, "file", on_event)
        dataset = with_outputs(dataset, teacher.network.outputs)
        student = _side("student", asked, dataset, recipe.student.start, on_event)
        check_heads(recipe, dataset, teacher.network, student.network)
        # Projections start the same however the models were opened, which uses up random numbers.
        keras.utils.set_random_seed(seed)
        terms = build_terms(recipe.losses, student=student.network, teacher=teacher.network)
    count = _view_count(recipe)
    views = Views(recipe.data.augment, seed=seed, count=count, examples=len(dataset.train))
    views.check(dataset.train)
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
    resolved = _resolved(recipe, dataset, {"teacher": teacher, "student": student}, terms, strategy)
    resolved |= {
        ("student", "start"): student.start,
        ("teacher", "targets"): mode,
        ("teacher", "views"): "all" if count is None else count,
    }
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


def _view_count(recipe: Recipe) -> int | None:
    """Kept views; None is a new one every epoch."""
    if not recipe.data.augment:
        return 1
    return recipe.teacher.views if isinstance(recipe.teacher.views, int) else None


def _resolved(
    recipe: Recipe, dataset: Dataset, sides: dict[str, Opened], terms: Sequence[Term], strategy: Any
) -> dict[Path, Any]:
    """A value for every `auto` that both commands know."""
    values: dict[Path, Any] = {("data", "task"): dataset.task}
    if recipe.train.steps is None:
        values["train", "epochs"] = recipe.train.epochs or 10
    if strategy.num_replicas_in_sync == 1:
        values["train", "devices"] = "one"
    for role, side in sides.items():
        preparation = next(iter(side.network.preparations.values()))
        values[role, "output_kind"] = side.network.output_kind
        values[role, "input", "scale"] = preparation.scale
        if preparation.picture:
            values[role, "input", "resize"] = list(preparation.prepared_shape[:2])
    for number, loss in enumerate(recipe.losses or ()):
        if isinstance(loss, Labels) and loss.loss == "auto":
            values["losses", number, "loss"] = "mse" if dataset.task == "regression" else "cross_entropy"
    for number, term in enumerate(terms):
        if term.pairs:
            values["losses", number, "teacher_layer"] = [pair.teacher for pair in term.pairs]
            values["losses", number, "student_layer"] = [pair.student for pair in term.pairs]
    return values


def open_teacher_training(
    place: Place, *, threads: int | None, stop: Callable[[], int | None], on_event: OnEvent
) -> Job:
    """Everything that the training of a teacher needs.

    Raises:
        KdError: what is missing, cannot be read or does not fit.
    """
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
    strategy = strategy_for(recipe.train.devices)
    check_effects(recipe, [Labels()], dataset, replicas=strategy.num_replicas_in_sync)
    if not dataset.labelled:
        raise UsageError("train-teacher needs labels, and the data has none", hint="leave data.labels at auto")
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
    views.check(dataset.train)
    train = with_length(recipe.train, len(dataset.train))
    monitor = monitored(train, dataset, with_teacher=False)
    labels = next((loss for loss in recipe.losses or () if isinstance(loss, Labels)), Labels())
    term = Term(labels.model_copy(update={"weight": 1.0, "warmup": 0.0}))
    fit = Fit(recipe, train, dataset, views, teacher.network, (term,), strategy, monitor, on_event, stop)
    resolved = _resolved(recipe, dataset, {"teacher": teacher}, (term,), strategy)
    resolved["teacher", "start"] = teacher.start
    inputs = {
        "teacher": {"path": str(teacher.path) if teacher.path else None, "sha256": teacher.sha256},
        "data": {"name": dataset.name, "sha256": fingerprint(dataset)},
    }
    check_inputs(place, inputs)
    return Job("train-teacher", asked, fit, teacher, None, resolved, inputs, clock)
