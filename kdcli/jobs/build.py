"""From a recipe to a job that is ready to start: data, networks, terms and views, all opened and resolved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kdcli.data.dataset import Dataset, with_outputs
from kdcli.distillation.terms import Term, build_terms
from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent
from kdcli.jobs.job import Job
from kdcli.jobs.training import Clock, Fit, monitored, with_length
from kdcli.lazy import keras
from kdcli.losses.labels import Labels
from kdcli.models.network import Network
from kdcli.models.preprocessing import scale_to_json
from kdcli.recipe.document import Path, dotted
from kdcli.recipe.sections import Recipe
from kdcli.setup.checks import (
    check_effects,
    check_heads,
    check_precision,
    check_quantized,
    check_synchronized,
    refuse_untrained,
)
from kdcli.setup.classifier_reuse import reuse_classifier
from kdcli.setup.context import Surroundings
from kdcli.setup.ensemble_members import check_members, members
from kdcli.setup.open_models import Opened
from kdcli.setup.open_teachers import open_side, open_teacher, open_teachers
from kdcli.setup.request import Asked, require
from kdcli.setup.run_location import Place, check_inputs, code_inputs, data_key, data_sha256, open_data
from kdcli.setup.startup import strategy_for
from kdcli.setup.workers import start_together
from kdcli.teacher.ensemble import open_teachings, resolved_teaching
from kdcli.teacher.resolve import views_of
from kdcli.zoo import Clone


def open_distillation(place: Place, around: Surroundings) -> Job:
    """Everything that a distillation needs.

    Raises:
        KdError: what is missing, cannot be read or does not fit.
    """
    asked, recipe = place.asked, place.asked.recipe
    require(asked, "data", "teacher", "student")
    check_members(asked)
    for one in members(asked):
        refuse_untrained(one)
    if recipe.losses is None:
        raise UsageError(f"the recipe {asked.name!r} has no losses", hint="--recipe soft-targets")
    clock, on_event = Clock(), around.on_event
    start_together(asked, around)
    dataset = _dataset(asked, clock, around)
    strategy = strategy_for(recipe.train.devices, around.workers.strategy)
    check_effects(recipe, recipe.losses, dataset, replicas=strategy.num_replicas_in_sync)
    with strategy.scope():
        teachers = open_teachers(asked, dataset, around)
        teacher = teachers[0]
        dataset = with_outputs(dataset, teacher.network.outputs)
        student = open_side("student", asked, dataset, around, recipe.student.start, teacher.network)
        check_precision(recipe, student.network)
        _note_quantized(student)
        _synchronize(recipe, student.network, strategy, on_event)
        reused = reuse_classifier(recipe, student, teacher)
        student = reused.student
        check_heads(recipe, dataset, teacher.network, student.network)
        # Projections start the same however the models were opened, which uses up random numbers.
        keras.utils.set_random_seed(recipe.train.seed)
        train = with_length(recipe.train, len(dataset.train))
        terms = build_terms(
            reused.losses,
            student=student.network,
            teacher=teacher.network,
            examples=len(dataset.train),
            batch=train.batch_size,
            seed=recipe.train.seed,
        )
    teaching = open_teachings(asked, dataset, teachers, terms, around, epochs=train.epochs or 1)
    monitor = monitored(train, dataset, with_teacher=True)
    views = teaching.views
    fit = Fit(recipe, train, dataset, views, student.network, terms, strategy, monitor, on_event, around.stop)
    fit.workers = around.workers
    sides: dict[Path, Opened] = {("teacher", number): one for number, one in enumerate(teachers)}
    if not recipe.is_ensemble:
        sides = {("teacher",): teacher}
    resolved = _resolved(recipe, dataset, {**sides, ("student",): student}, terms, strategy)
    resolved |= {**reused.resolved, ("student", "start"): student.start, **resolved_teaching(teaching)}
    inputs = {
        **{dotted(at): one.record for at, one in sides.items()},
        "student": student.record,
        **code_inputs(asked),
    }
    inputs["data"] = _data_record(asked, dataset, around)
    check_inputs(place, inputs)
    return Job("distill", asked, fit, student, teaching, resolved, inputs, clock)


def open_alone(role: str, place: Place, around: Surroundings) -> Job:
    """Everything that training from labels alone needs: of a teacher, or of a student as its own baseline.

    Every epoch sees a new view, also where a distilled twin's teacher answers only some.

    Raises:
        KdError: what is missing, cannot be read or does not fit.
    """
    asked, recipe = place.asked, place.asked.recipe
    require(asked, "data", role)
    clock, on_event = Clock(), around.on_event
    start_together(asked, around)
    dataset = _dataset(asked, clock, around)
    strategy = strategy_for(recipe.train.devices, around.workers.strategy)
    check_effects(recipe, [Labels()], dataset, replicas=strategy.num_replicas_in_sync)
    if not dataset.labelled:
        raise UsageError(
            f"a {role} that learns alone needs labels, and the data has none", hint="leave data.labels at auto"
        )
    with strategy.scope():
        teacher = None
        if role == "student" and isinstance(recipe.student.model, Clone):
            # Who learns alone has a teacher too where it is the teacher's architecture.
            require(asked, "teacher")
            first = members(asked)[0]
            refuse_untrained(first)
            teacher = open_teacher(first, dataset, around).network
        opened = open_side(role, asked, dataset, around, getattr(recipe, role).start, teacher)
        check_precision(recipe, opened.network)
        _note_quantized(opened)
        _synchronize(recipe, opened.network, strategy, on_event)
    views = views_of(recipe, dataset, None)
    train = with_length(recipe.train, len(dataset.train))
    monitor = monitored(train, dataset, with_teacher=False)
    term = Term(label_term(recipe))
    fit = Fit(recipe, train, dataset, views, opened.network, (term,), strategy, monitor, on_event, around.stop)
    fit.workers = around.workers
    resolved = _resolved(recipe, dataset, {(role,): opened}, (term,), strategy)
    resolved[role, "start"] = opened.start
    inputs = {role: opened.record, "data": _data_record(asked, dataset, around), **code_inputs(asked)}
    check_inputs(place, inputs)
    command = "train-teacher" if role == "teacher" else "scratch"
    return Job(command, asked, fit, opened, None, resolved, inputs, clock)


def label_term(recipe: Recipe) -> Labels:
    """The loss of training alone: the recipe's own `labels` term, or the default, with weight 1."""
    labels = next((loss for loss in recipe.losses or () if isinstance(loss, Labels)), Labels())
    return labels.model_copy(update={"weight": 1.0, "warmup": 0.0})


def _dataset(asked: Asked, clock: Clock, around: Surroundings) -> Dataset:
    since = time.perf_counter()
    dataset = open_data(asked, around.once)
    around.once(("notes", *data_key(asked)), lambda: _say(dataset.notes, around.on_event))
    clock.lap("data", since)
    return dataset


def _synchronize(recipe: Recipe, trained: Network, strategy: Any, on_event: OnEvent) -> None:
    idle = check_synchronized(recipe, trained, replicas=strategy.num_replicas_in_sync)
    if idle is not None:
        on_event(Note(idle))


def _note_quantized(opened: Opened) -> None:
    text = check_quantized(opened.network, start=opened.start)
    if text is not None:
        opened.network.notes = (*opened.network.notes, text)


def _say(notes: Sequence[str], on_event: OnEvent) -> None:
    for text in notes:
        on_event(Note(text))


def _data_record(asked: Asked, dataset: Dataset, around: Surroundings) -> dict[str, Any]:
    return {"name": dataset.name, "sha256": data_sha256(asked, around.once)}


def _resolved(
    recipe: Recipe, dataset: Dataset, sides: dict[Path, Opened], terms: Sequence[Term], strategy: Any
) -> dict[Path, Any]:
    """A value for every `auto` that both commands know."""
    values: dict[Path, Any] = {("data", "task"): dataset.task}
    values["data", "target_scale"] = dataset.target_scale
    if dataset.label_name is not None:
        values["data", "labels"] = dataset.label_name
    if recipe.train.steps is None:
        values["train", "epochs"] = recipe.train.epochs or 10
    if strategy.num_replicas_in_sync == 1:
        values["train", "devices"] = "one"
    for at, side in sides.items():
        values[*at, "output_kind"] = side.network.output_kind
        # Recorded answers take nothing in.
        for preparation in list(side.network.preparations.values())[:1]:
            if preparation.scaled:
                values[*at, "input", "scale"] = scale_to_json(preparation.scale)
            if preparation.picture:
                values[*at, "input", "resize"] = list(preparation.prepared_shape[:2])
    for number, loss in enumerate(recipe.losses or ()):
        if isinstance(loss, Labels) and loss.loss == "auto":
            values["losses", number, "loss"] = "mse" if dataset.task == "regression" else "cross_entropy"
    for number, term in enumerate(terms):
        if term.pairs:
            values["losses", number, "teacher_layer"] = [pair.teacher for pair in term.pairs]
            values["losses", number, "student_layer"] = [pair.student for pair in term.pairs]
    return values
