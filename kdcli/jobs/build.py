"""From a recipe to a job that is ready to start: data, networks, terms and views, all opened and resolved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kdcli.data.dataset import Dataset, fill_outputs
from kdcli.distillation.terms import Term, build_terms
from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent
from kdcli.jobs.job import Job
from kdcli.jobs.training import Clock, Fit, monitored_metric, with_epochs_and_steps
from kdcli.lazy import keras
from kdcli.losses.labels import Labels
from kdcli.models.network import Network
from kdcli.models.preprocessing import scale_to_json
from kdcli.recipe.document import SettingPath, join_path
from kdcli.recipe.sections import Recipe
from kdcli.setup.checks import (
    check_effects,
    check_output_kinds,
    check_quantized,
    check_synchronized,
    check_training_precision,
    refuse_untrained,
)
from kdcli.setup.classifier_reuse import reuse_classifier
from kdcli.setup.ensemble_members import check_ensemble, member_requests
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.open_teachers import open_role, open_teacher, open_teachers
from kdcli.setup.request import Request, require
from kdcli.setup.run_location import RunLocation, check_inputs, data_key, hash_code, hash_data, open_data
from kdcli.setup.startup import strategy_for
from kdcli.setup.workers import start_workers
from kdcli.teacher.ensemble import build_teacher_outputs, resolved_settings
from kdcli.teacher.resolve import make_views
from kdcli.zoo import Clone


def build_distillation(location: RunLocation) -> Job:
    """Everything that a distillation needs.

    Raises:
        KdError: what is missing, cannot be read or does not fit.
    """
    request, recipe = location.request, location.request.recipe
    require(request, "data", "teacher", "student")
    check_ensemble(request)
    for one in member_requests(request):
        refuse_untrained(one)
    if recipe.losses is None:
        raise UsageError(f"the recipe {request.name!r} has no losses", hint="--recipe soft-targets")
    clock, on_event = Clock(), location.request.context.on_event
    start_workers(request)
    dataset = _dataset(request, clock)
    strategy = strategy_for(recipe.train.devices, location.request.context.workers.strategy)
    check_effects(recipe, recipe.losses, dataset, replicas=strategy.num_replicas_in_sync)
    with strategy.scope():
        teachers = open_teachers(request, dataset)
        teacher = teachers[0]
        dataset = fill_outputs(dataset, teacher.network.outputs)
        student = open_role("student", request, dataset, recipe.student.start, teacher.network)
        check_training_precision(recipe, student.network)
        _note_quantized(student)
        _synchronize(recipe, student.network, strategy, on_event)
        reused = reuse_classifier(recipe, student, teacher)
        student = reused.student
        check_output_kinds(recipe, dataset, teacher.network, student.network)
        # Projections start the same however the models were opened, which uses up random numbers.
        keras.utils.set_random_seed(recipe.train.seed)
        train = with_epochs_and_steps(recipe.train, len(dataset.train))
        terms = build_terms(
            reused.losses,
            student=student.network,
            teacher=teacher.network,
            examples=len(dataset.train),
            batch=train.batch_size,
            seed=recipe.train.seed,
        )
    teacher_outputs = build_teacher_outputs(request, dataset, teachers, terms, epochs=train.epochs or 1)
    monitor = monitored_metric(train, dataset, with_teacher=True)
    views = teacher_outputs.views
    fit = Fit(
        recipe,
        train,
        dataset,
        views,
        student.network,
        terms,
        strategy,
        monitor,
        on_event,
        location.request.context.stop,
    )
    fit.workers = location.request.context.workers
    sides: dict[SettingPath, OpenedModel] = {("teacher", number): one for number, one in enumerate(teachers)}
    if not recipe.is_ensemble:
        sides = {("teacher",): teacher}
    resolved = _resolved(recipe, dataset, {**sides, ("student",): student}, terms, strategy)
    resolved |= {**reused.resolved, ("student", "start"): student.start, **resolved_settings(teacher_outputs)}
    inputs = {
        **{join_path(at): one.record for at, one in sides.items()},
        "student": student.record,
        **hash_code(request),
    }
    inputs["data"] = _data_record(request, dataset)
    check_inputs(location, inputs)
    return Job("distill", request, fit, student, teacher_outputs, resolved, inputs, clock)


def build_label_training(role: str, location: RunLocation) -> Job:
    """Everything that training from labels alone needs: of a teacher, or of a student as its own baseline.

    Every epoch sees a new view, also where a distilled twin's teacher answers only some.

    Raises:
        KdError: what is missing, cannot be read or does not fit.
    """
    request, recipe = location.request, location.request.recipe
    require(request, "data", role)
    clock, on_event = Clock(), location.request.context.on_event
    start_workers(request)
    dataset = _dataset(request, clock)
    strategy = strategy_for(recipe.train.devices, location.request.context.workers.strategy)
    check_effects(recipe, [Labels()], dataset, replicas=strategy.num_replicas_in_sync)
    if not dataset.labelled:
        raise UsageError(
            f"a {role} that learns alone needs labels, and the data has none", hint="leave data.labels at auto"
        )
    with strategy.scope():
        teacher = None
        if role == "student" and isinstance(recipe.student.model, Clone):
            # Who learns alone has a teacher too where it is the teacher's architecture.
            require(request, "teacher")
            first = member_requests(request)[0]
            refuse_untrained(first)
            teacher = open_teacher(first, dataset).network
        opened = open_role(role, request, dataset, getattr(recipe, role).start, teacher)
        check_training_precision(recipe, opened.network)
        _note_quantized(opened)
        _synchronize(recipe, opened.network, strategy, on_event)
    views = make_views(recipe, dataset, None)
    train = with_epochs_and_steps(recipe.train, len(dataset.train))
    monitor = monitored_metric(train, dataset, with_teacher=False)
    term = Term(label_term(recipe))
    fit = Fit(
        recipe,
        train,
        dataset,
        views,
        opened.network,
        (term,),
        strategy,
        monitor,
        on_event,
        location.request.context.stop,
    )
    fit.workers = location.request.context.workers
    resolved = _resolved(recipe, dataset, {(role,): opened}, (term,), strategy)
    resolved[role, "start"] = opened.start
    inputs = {role: opened.record, "data": _data_record(request, dataset), **hash_code(request)}
    check_inputs(location, inputs)
    command = "train-teacher" if role == "teacher" else "scratch"
    return Job(command, request, fit, opened, None, resolved, inputs, clock)


def label_term(recipe: Recipe) -> Labels:
    """The loss of training alone: the recipe's own `labels` term, or the default, with weight 1."""
    labels = next((loss for loss in recipe.losses or () if isinstance(loss, Labels)), Labels())
    return labels.model_copy(update={"weight": 1.0, "warmup": 0.0})


def _dataset(request: Request, clock: Clock) -> Dataset:
    since = time.perf_counter()
    dataset = open_data(request)
    request.context.memo(("notes", *data_key(request)), lambda: _say(dataset.notes, request.context.on_event))
    clock.lap("data", since)
    return dataset


def _synchronize(recipe: Recipe, trained: Network, strategy: Any, on_event: OnEvent) -> None:
    idle = check_synchronized(recipe, trained, replicas=strategy.num_replicas_in_sync)
    if idle is not None:
        on_event(Note(idle))


def _note_quantized(opened: OpenedModel) -> None:
    text = check_quantized(opened.network, start=opened.start)
    if text is not None:
        opened.network.notes = (*opened.network.notes, text)


def _say(notes: Sequence[str], on_event: OnEvent) -> None:
    for text in notes:
        on_event(Note(text))


def _data_record(request: Request, dataset: Dataset) -> dict[str, Any]:
    return {"name": dataset.name, "sha256": hash_data(request)}


def _resolved(
    recipe: Recipe, dataset: Dataset, sides: dict[SettingPath, OpenedModel], terms: Sequence[Term], strategy: Any
) -> dict[SettingPath, Any]:
    """A value for every `auto` that both commands know."""
    values: dict[SettingPath, Any] = {("data", "task"): dataset.task}
    values["data", "target_scale"] = dataset.target_scale
    if dataset.label_name is not None:
        values["data", "labels"] = dataset.label_name
    if recipe.train.steps is None:
        values["train", "epochs"] = recipe.train.epochs or 10
    if strategy.num_replicas_in_sync == 1:
        values["train", "devices"] = "one"
    for at, side in sides.items():
        values[*at, "output_kind"] = side.network.saved_kind
        # Recorded answers take nothing in.
        for preparation in list(side.network.preprocessing.values())[:1]:
            if preparation.is_scaled:
                values[*at, "input", "scale"] = scale_to_json(preparation.scale)
            if preparation.is_image:
                values[*at, "input", "resize"] = list(preparation.preprocessed_shape[:2])
    for number, loss in enumerate(recipe.losses or ()):
        if isinstance(loss, Labels) and loss.loss == "auto":
            values["losses", number, "loss"] = "mse" if dataset.task == "regression" else "cross_entropy"
    for number, term in enumerate(terms):
        if term.pairs:
            values["losses", number, "teacher_layer"] = [pair.teacher for pair in term.pairs]
            values["losses", number, "student_layer"] = [pair.student for pair in term.pairs]
    return values
