"""What a recipe asks for that this data and these models cannot give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcli.augment import Mixing
from kdcli.data.dataset import Dataset, compute_class_weights
from kdcli.errors import ModelError, UsageError, summarize_error
from kdcli.events import Note
from kdcli.loss import Loss
from kdcli.losses.labels import Labels
from kdcli.models.files.format import KERAS_FORMATS, detect_format, resolve_model_file
from kdcli.models.hardware import has_gpu
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.recipe.sections import Recipe
from kdcli.setup.request import Request
from kdcli.training.replicas import find_batch_norms
from kdcli.zoo import Clone, File, has_trained_weights


def refuse_untrained(request: Request) -> None:
    """Refuse a teacher from the zoo that knows nothing yet.

    Raises:
        UsageError: naming train-teacher.
    """
    model = request.recipe.teacher.model
    if "teacher" in request.models or isinstance(model, File | None) or has_trained_weights(model):
        return
    if isinstance(model, Clone):
        raise UsageError(
            "teacher.model is clone, the teacher's own architecture: only a student can be one",
            hint="--teacher FILE, and {kind: zoo, name: clone} as student.model",
        )
    raise UsageError(
        f"the teacher is a zoo model ({model.name}), which has no trained weights",
        hint=f"kd train-teacher --recipe {request.name} --out runs/teacher, then --teacher runs/teacher",
    )


def refuse_trained_object(request: Request) -> None:
    """Refuse to compare from the weights of an object: training changes it.

    Raises:
        UsageError: with the two ways on.
    """
    if "student" in request.models and request.recipe.student.start == "file":
        raise UsageError(
            "a model object is trained in place: a comparison cannot start from its weights twice",
            hint="save it and give the file, or student.start=fresh",
        )


def refuse_fresh_graph(request: Request) -> None:
    """Refuse to start anew what has only its weights.

    Raises:
        UsageError: naming the file.
    """
    student = request.recipe.student
    if isinstance(student.model, File) and student.start == "fresh":
        file = resolve_model_file(Path(student.model.path), trust=request.trust)
        if detect_format(file) not in KERAS_FORMATS:
            raise reinitialization_error("student", str(file))


def reinitialization_error(role: str, name: str) -> UsageError:
    """The refusal of a fresh start for what has only its weights."""
    return UsageError(
        f"{role}.start is fresh, but {name} is no Keras model that can be made anew",
        hint=f"--set {role}.start=file keeps its weights",
    )


def check_effects(recipe: Recipe, losses: Sequence[Loss], dataset: Dataset, *, replicas: int) -> None:
    """Refuse settings that could have no effect or cannot work with this data.

    Raises:
        UsageError: naming the setting.
    """
    train, values = recipe.train, dataset.task == "regression"
    check_loss_settings(recipe, losses, dataset, replicas=replicas)
    on_classes = any(loss.needs_labels and not loss.needs_teacher for loss in losses) and not values
    idle = {
        "data.class_weight": recipe.data.class_weight != "none" and not on_classes,
        "train.label_smoothing": train.label_smoothing > 0 and not on_classes,
    }
    for setting, useless in idle.items():
        if useless:
            raise UsageError(
                f"{setting} acts on losses that compare with labels alone; there is none",
                hint="leave it out, or add {kind: labels}",
            )
    several = any(isinstance(section.views, int) and section.views > 1 for section in recipe.teachers)
    if several and not recipe.data.augment:
        raise UsageError("teacher.views needs data.augment: all views are the same", hint="leave it out")
    _check_augment(recipe, dataset)
    compute_class_weights(dataset, recipe.data.class_weight)
    if train.early_stopping is not None and dataset.validation is None:
        raise UsageError("train.early_stopping needs a validation split", hint="--set data.validation=0.1")
    batch = min(train.batch_size, len(dataset.train))
    if batch % replicas:
        few = f" (there are {batch} examples)" if batch < train.batch_size else ""
        raise UsageError(
            f"train.batch_size {train.batch_size}{few} cannot be shared by {replicas} devices",
            hint=f"--batch-size {max(batch // replicas, 1) * replicas}",
        )
    try:
        train.optimizer.build(train.optimizer.learning_rate)
    except (ValueError, TypeError) as error:
        raise UsageError(f"train.optimizer: {summarize_error(error)}") from error


def _check_augment(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse augmentation that would leave labels behind.

    Raises:
        UsageError: naming the kind.
    """
    for augment in recipe.data.augment:
        if isinstance(augment, Mixing) and dataset.task != "classification":
            raise UsageError(
                f"data.augment: {augment.kind} mixes the labels of classes; the task is {dataset.task}",
                hint="leave it out, or --set data.task=classification",
            )
        if augment.moves and dataset.is_dense:
            raise UsageError(
                f"data.augment: {augment.kind} moves the picture, and its map of labels would stay behind",
                hint="brightness and contrast leave every pixel where it is",
            )


def check_trained_model(request: Request, network: Network, *, start: str, replicas: int) -> None:
    """Refuse a model that cannot be trained as the recipe says; notes what has no effect.

    Raises:
        UsageError, ModelError: naming the setting or the model.
    """
    check_training_precision(request.recipe, network)
    quantized = check_quantized(network, start=start)
    if quantized is not None:
        network.notes = (*network.notes, quantized)
    idle = check_synchronized(request.recipe, network, replicas=replicas)
    if idle is not None:
        request.context.on_event(Note(idle))


def check_synchronized(recipe: Recipe, trained: Network, *, replicas: int) -> str | None:
    """Refuse to synchronise what is not there; gives a sentence where it is there and has no effect.

    Raises:
        UsageError: naming the setting.
    """
    if not recipe.train.synchronized:
        return None
    if not find_batch_norms(trained):
        raise UsageError(
            "train.synchronized acts on batch normalisation, and what is trained has none that Keras knows",
            hint="leave it out",
        )
    return "train.synchronized has no effect on one device" if replicas == 1 else None


def check_training_precision(recipe: Recipe, student: Network) -> None:
    """Refuse half precision where the layers cannot be told to use it, or where it takes many times as long.

    Raises:
        UsageError: naming the setting.
    """
    if recipe.train.precision == "float32" and isinstance(student, KerasNetwork) and not has_gpu():
        slow = [layer.name for layer in student.layers if layer.dtype_policy.compute_dtype == "float16"]
        if slow:
            raise UsageError(
                f"{student.name}: its layers ({', '.join(slow[:3])}{' ...' if slow[3:] else ''}) compute in "
                "mixed_float16, which processors do more than ten times slower",
                hint="--set train.precision=mixed_bfloat16",
            )
    if recipe.train.precision != "float32" and not isinstance(student, KerasNetwork):
        raise UsageError(
            f"train.precision {recipe.train.precision} needs a Keras model; {student.name} is a graph",
            hint="--set train.precision=float32",
        )


def check_quantized(network: Network, *, start: str) -> str | None:
    """Refuse to train what Keras has quantised as a whole; gives a sentence where only a part is quantised.

    `model.quantize("int8")` leaves integer kernels that no gradient reaches; biases would learn alone. LoRA
    weights beside such a kernel do learn.

    Args:
        network: what is trained.
        start: `file`, or `fresh`, which cannot draw integer kernels.

    Raises:
        ModelError: none of its kernels learns.
    """
    if not isinstance(network, KerasNetwork):
        return None
    fixed = [
        layer.name
        for layer in network.layers
        if getattr(layer, "quantization_mode", None) is not None and not _learns(layer)
    ]
    if not fixed:
        return None
    names = f"{', '.join(fixed[:3])}{' ...' if fixed[3:] else ''}"
    if start == "fresh" or not any(len(variable.shape) > 1 for variable in network.trainable_variables):
        raise ModelError(
            f"{network.name} was quantised by Keras (model.quantize): the kernels of {names} are integers, which "
            "do not learn",
            hint="give the float model it was made from; what was trained can be quantised when it is exported",
        )
    return f"{network.name} was quantised by Keras: the kernels of {names} are integers and do not learn"


def _learns(layer: Any) -> bool:
    return any(len(variable.shape) > 1 for variable in layer.trainable_variables)


def check_loss_settings(recipe: Recipe, losses: Sequence[Loss], dataset: Dataset, *, replicas: int) -> None:
    """Refuse losses that cannot work with this data, this batch or these devices, before a model is opened.

    Raises:
        UsageError: naming the loss and the way on.
    """
    batch = min(recipe.train.batch_size, len(dataset.train))
    for loss in losses:
        _check_labels(recipe, loss, dataset)
        _check_task(loss, dataset)
        _check_classes(loss, dataset.outputs)
        if loss.one_device and replicas > 1:
            raise UsageError(
                f"losses.{loss.label} keeps what devices cannot share: it needs one device, there are {replicas}",
                hint="--devices one, or relational and hint, which work on several",
            )
        if batch // replicas < loss.least_batch:
            raise _too_small(loss, batch, len(dataset.train), replicas)


def _check_labels(recipe: Recipe, loss: Loss, dataset: Dataset) -> None:
    if loss.needs_labels and not dataset.labelled:
        raise UsageError(
            f"losses.{loss.label} needs labels, and the data has none",
            hint="leave the term out: soft_targets and soft_cross_entropy need no labels",
        )
    if not loss.one_class:
        return
    mixing = next((augment.kind for augment in recipe.data.augment if isinstance(augment, Mixing)), None)
    if mixing is not None:
        raise UsageError(
            f"losses.{loss.label} needs one class for each example, and data.augment {mixing} mixes classes",
            hint=f"leave {mixing} out, or soft_targets, which needs no labels",
        )
    if dataset.train.soft_labels is not None:
        raise UsageError(
            f"losses.{loss.label} needs one class for each example; the labels are rows of probabilities",
            hint="soft_targets and labels work with soft labels",
        )
    if dataset.task == "multilabel":
        raise UsageError(
            f"losses.{loss.label} needs one class for each example; the task is multilabel",
            hint="soft_targets and labels work with several classes for an example",
        )


def _check_task(loss: Loss, dataset: Dataset) -> None:
    cross_entropy = isinstance(loss, Labels) and loss.loss == "cross_entropy"
    if dataset.task == "regression" and (cross_entropy or "values" not in loss.accepted_output_kinds):
        what = "a cross-entropy" if cross_entropy or "cross_entropy" in loss.kind else f"{loss.kind}"
        raise UsageError(
            f"losses.{loss.label}: {what} needs classes, and the data has values",
            hint="soft_targets compares values; labels takes loss: mse, mae or huber",
        )
    if dataset.is_dense and loss.on_logits and not loss.leading_axes:
        raise UsageError(
            f"losses.{loss.label} compares one vector of outputs for each example; the task is {dataset.task}",
            hint="soft_targets compares every pixel, channel_wise maps of features",
        )
    if dataset.has_void and loss.on_logits and (loss.whole_batch or loss.has_parts):
        raise UsageError(
            f"losses.{loss.label} compares pixels with each other, and data.ignore leaves some of them out",
            hint="soft_targets and labels compare each pixel alone",
        )


def _check_classes(loss: Loss, classes: int) -> None:
    if 0 < classes < loss.least_classes:
        raise UsageError(
            f"losses.{loss.label} needs {loss.least_classes} classes or more, there are {classes}",
            hint="soft_targets and logit_mse work with any number of classes",
        )


def _too_small(loss: Loss, batch: int, examples: int, replicas: int) -> UsageError:
    share = f" (a share of {batch} for each of {replicas} devices)" if replicas > 1 else ""
    enough = loss.least_batch * replicas
    way_on = f"--batch-size {enough}" if examples >= enough else f"there are {examples} training examples"
    return UsageError(
        f"losses.{loss.label} compares examples with each other: it needs {loss.least_batch} in a batch, "
        f"got {batch // replicas}{share}",
        hint=f"{way_on}; soft_targets and hint work on single examples",
    )


def check_output_kinds(recipe: Recipe, dataset: Dataset, teacher: Network, student: Network) -> None:
    """Refuse outputs that cannot be compared, and inner layers of what shows none.

    Raises:
        UsageError: too few classes for a loss.
        ModelError: naming the loss or both models.
    """
    for loss in recipe.losses or ():
        for role, network in (("teacher", teacher), ("student", student)):
            if not loss.on_logits and not network.taps:
                raise ModelError(
                    f"losses.{loss.label} compares inner layers, and the {role} ({network.name}) shows none: "
                    "only its outputs are known",
                    hint="soft_targets needs only outputs; or give the .keras file that it was made from",
                )
        if loss.on_logits and loss.needs_teacher and teacher.output_kind != student.output_kind:
            raise ModelError(
                f"the teacher's outputs are {teacher.output_kind}, the student's {student.output_kind}: they "
                "cannot be compared",
                hint="models with the same kind of output, or only feature losses",
            )
        if student.output_kind not in loss.accepted_output_kinds:
            raise ModelError(
                f"losses.{loss.label} works on {' or '.join(loss.accepted_output_kinds)}; the outputs of the "
                f"student ({student.name}) are {student.output_kind}",
                hint="soft_targets and logit_mse compare outputs of every kind",
            )
        _check_classes(loss, student.outputs)
    ours, theirs = student.output_shape[:-1], teacher.output_shape[:-1]
    if None not in (*ours, *theirs) and ours != theirs:
        raise ModelError(
            f"the teacher ({teacher.name}) gives maps of {theirs}, the student ({student.name}) of {ours}",
            hint="two models whose outputs have the same size",
        )
