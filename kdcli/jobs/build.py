"""Build a job from a run's request: data, networks, loss terms and views, opened and resolved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.data.dataset import Dataset, fill_outputs
from kdcli.distillation.terms import Term, build_terms
from kdcli.errors import UsageError
from kdcli.jobs.job import Clock, Job
from kdcli.jobs.monitor import choose_monitor
from kdcli.lazy import keras
from kdcli.loss import Loss
from kdcli.losses.classifier_reuse import ClassifierReuse
from kdcli.losses.labels import Labels
from kdcli.models.preprocessing import scale_to_json
from kdcli.recipe.document import SettingPath, join_path
from kdcli.recipe.sections import Recipe
from kdcli.recipe.train_section import TrainSection
from kdcli.setup.checks import (
    check_effects,
    check_model_outputs,
    check_trained_model,
    refuse_untrained,
)
from kdcli.setup.classifier_reuse import reuse_classifier
from kdcli.setup.ensemble_requests import check_ensemble, member_requests
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.open_teachers import open_role, open_teacher, open_teachers
from kdcli.setup.quantized_student import quantize_student
from kdcli.setup.request import Request, require
from kdcli.setup.run_location import RunLocation, open_data, record_inputs
from kdcli.setup.startup import strategy_for
from kdcli.setup.workers import start_workers
from kdcli.teacher.build import build_teacher_outputs, make_views
from kdcli.teacher.ensemble import resolve_settings
from kdcli.training.loop import steps_per_epoch

# Epochs where no setting gives the length; of quantization-aware training, and its fewest steps.
_EPOCHS, _QUANTIZED_EPOCHS, _FEWEST_QUANTIZED_STEPS = 10, 3, 300


def build_distillation(location: RunLocation) -> Job:
    """Open and resolve everything that a distillation needs.

    Raises:
        KdError: an input is missing, cannot be read or does not fit.
    """
    request, recipe = location.request, location.request.recipe
    _check_request(request)
    clock = Clock()
    start_workers(request)
    with clock.measure("data"):
        dataset = open_data(request, with_notes=True)
    strategy = strategy_for(recipe.train.devices, request.context.workers.strategy)
    check_effects(recipe, recipe.losses or (), dataset, replicas=strategy.num_replicas_in_sync)
    with strategy.scope():
        teachers = open_teachers(request, dataset)
        dataset = fill_outputs(dataset, teachers[0].network.outputs)
        student = open_role("student", request, dataset, recipe.student.start, teachers[0].network)
        check_trained_model(request, student.network, start=student.start, replicas=strategy.num_replicas_in_sync)
        if recipe.train.quantize is not None:
            student = quantize_student(student, dataset, seed=recipe.data_seed)
        losses: tuple[Loss, ...] = recipe.losses or ()
        reused_layers: dict[SettingPath, Any] = {}
        if any(isinstance(loss, ClassifierReuse) for loss in losses):
            student, losses, reused_layers = reuse_classifier(recipe, student, teachers[0])
        check_model_outputs(recipe, dataset, teachers[0].network, student.network)
        # Opening models consumes random numbers; projections must not depend on it.
        keras.utils.set_random_seed(recipe.train.seed)
        train = with_epochs_and_steps(recipe.train, len(dataset.train))
        terms = build_terms(
            losses,
            student=student.network,
            teacher=teachers[0].network,
            examples=len(dataset.train),
            batch=train.batch_size,
            seed=recipe.train.seed,
        )
    outputs = build_teacher_outputs(request, dataset, teachers, terms, epochs=train.epochs or 1)
    models: dict[SettingPath, OpenedModel] = {("teacher", number): one for number, one in enumerate(teachers)}
    if not recipe.is_ensemble:
        models = {("teacher",): teachers[0]}
    models["student",] = student
    resolved = _resolve(recipe, dataset, models, terms, strategy)
    return Job(
        command="distill",
        request=request,
        trained=student,
        teacher_outputs=outputs,
        dataset=dataset,
        train=train,
        views=outputs.views,
        terms=terms,
        strategy=strategy,
        monitor=choose_monitor(train, dataset, with_teacher=True),
        resolved={**resolved, **reused_layers, ("student", "start"): student.start, **resolve_settings(outputs)},
        inputs=record_inputs(location, {join_path(at): model.record for at, model in models.items()}),
        clock=clock,
    )


def build_label_training(role: str, location: RunLocation) -> Job:
    """Open and resolve everything that training on labels needs: of a teacher, or of a student's baseline.

    Every epoch uses new views, even if the distilled student's teacher has outputs for only a few.

    Args:
        role: `teacher` or `student`.
        location: of the run.

    Raises:
        KdError: an input is missing, cannot be read or does not fit.
    """
    request, recipe = location.request, location.request.recipe
    require(request, "data", role)
    clock = Clock()
    start_workers(request)
    with clock.measure("data"):
        dataset = open_data(request, with_notes=True)
    strategy = strategy_for(recipe.train.devices, request.context.workers.strategy)
    check_effects(recipe, [Labels()], dataset, replicas=strategy.num_replicas_in_sync)
    if not dataset.labelled:
        raise UsageError(
            f"training a {role} without a teacher needs labels, and the data has none",
            hint="set data.labels to auto",
        )
    with strategy.scope():
        teacher = None
        if role == "student" and recipe.student.model is not None and recipe.student.model.needs_teacher:
            # The baseline has the same architecture, which is that of the teacher or comes from it.
            require(request, "teacher")
            first = member_requests(request)[0]
            refuse_untrained(first)
            teacher = open_teacher(first, dataset).network
        opened = open_role(role, request, dataset, getattr(recipe, role).start, teacher)
        check_trained_model(request, opened.network, start=opened.start, replicas=strategy.num_replicas_in_sync)
    train = with_epochs_and_steps(recipe.train, len(dataset.train))
    terms = (Term(label_term(recipe)),)
    models: dict[SettingPath, OpenedModel] = {(role,): opened}
    return Job(
        command="train-teacher" if role == "teacher" else "scratch",
        request=request,
        trained=opened,
        teacher_outputs=None,
        dataset=dataset,
        train=train,
        views=make_views(recipe, dataset, None),
        terms=terms,
        strategy=strategy,
        monitor=choose_monitor(train, dataset, with_teacher=False),
        resolved={**_resolve(recipe, dataset, models, terms, strategy), (role, "start"): opened.start},
        inputs=record_inputs(location, {join_path(at): model.record for at, model in models.items()}),
        clock=clock,
    )


def _check_request(request: Request) -> None:
    """Refuse an incomplete request before TensorFlow is loaded."""
    require(request, "data", "teacher", "student")
    check_ensemble(request)
    for member in member_requests(request) if request.recipe.is_ensemble else (request,):
        refuse_untrained(member)
    if request.recipe.losses is None:
        raise UsageError(f"the recipe {request.name!r} has no losses", hint="--recipe soft-targets")


def with_epochs_and_steps(train: TrainSection, examples: int) -> TrainSection:
    """Fill in both `epochs` and `steps` of the section, for the training loop."""
    each = steps_per_epoch(examples, train.batch_size)
    steps = train.steps or (train.epochs or choose_epochs(train, each)) * each
    return train.model_copy(update={"epochs": -(-steps // each), "steps": steps})


def choose_epochs(train: TrainSection, each: int) -> int:
    """The number of epochs where no setting gives the length.

    Args:
        train: quantization-aware training is short: 3 epochs, and more only if these have few steps.
        each: steps of an epoch.
    """
    return max(_QUANTIZED_EPOCHS, -(-_FEWEST_QUANTIZED_STEPS // each)) if train.quantize else _EPOCHS


def label_term(recipe: Recipe) -> Labels:
    """Return the loss of training without a teacher: the recipe's `labels` term or the default, with weight 1."""
    labels = next((loss for loss in recipe.losses or () if isinstance(loss, Labels)), Labels())
    return labels.model_copy(update={"weight": 1.0, "warmup": 0.0})


def _resolve(
    recipe: Recipe, dataset: Dataset, sides: dict[SettingPath, OpenedModel], terms: Sequence[Term], strategy: Any
) -> dict[SettingPath, Any]:
    """The resolved values of the `auto` settings of distillation and of label training, by path."""
    values: dict[SettingPath, Any] = {("data", "task"): dataset.task}
    values["data", "target_scale"] = dataset.target_scale
    if recipe.data.test == "auto":
        values["data", "test"] = 0.0
    if dataset.label_name is not None:
        values["data", "labels"] = dataset.label_name
    if recipe.train.steps is None:
        each = steps_per_epoch(len(dataset.train), recipe.train.batch_size)
        values["train", "epochs"] = recipe.train.epochs or choose_epochs(recipe.train, each)
    if strategy.num_replicas_in_sync == 1:
        values["train", "devices"] = "one"
    for at, side in sides.items():
        values[*at, "output_kind"] = side.network.saved_kind
        # Recorded outputs have no preprocessing.
        for preprocessing in list(side.network.preprocessing.values())[:1]:
            if preprocessing.is_scaled:
                values[*at, "input", "scale"] = scale_to_json(preprocessing.scale)
            if preprocessing.is_image:
                values[*at, "input", "resize"] = list(preprocessing.preprocessed_shape[:2])
    for number, loss in enumerate(recipe.losses or ()):
        if isinstance(loss, Labels) and loss.loss == "auto":
            values["losses", number, "loss"] = "mse" if dataset.task == "regression" else "cross_entropy"
    for number, term in enumerate(terms):
        if term.pairs:
            values["losses", number, "teacher_layer"] = [pair.teacher for pair in term.pairs]
            values["losses", number, "student_layer"] = [pair.student for pair in term.pairs]
    return values
