"""Checks of a recipe against its data and its models, before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
from kdcli.tensors import Shape, Variables
from kdcli.training.workers import find_batch_norms
from kdcli.zoo import Clone, File, has_trained_weights


def refuse_untrained(request: Request) -> None:
    """Refuse a zoo model without trained weights as the teacher.

    Raises:
        UsageError: the hint names train-teacher.
    """
    model = request.recipe.teacher.model
    if "teacher" in request.models or isinstance(model, File | None) or has_trained_weights(model):
        return
    if isinstance(model, Clone):
        raise UsageError(
            "teacher.model is clone, a copy of the teacher's architecture: only a student can be a clone",
            hint="give --teacher FILE, and set student.model to {kind: zoo, name: clone}",
        )
    raise UsageError(
        f"the teacher is a zoo model ({model.name}), which has no trained weights",
        hint=f"kd train-teacher --recipe {request.name} --out runs/teacher, then --teacher runs/teacher",
    )


def refuse_quantized_training(recipe: Recipe, *, command: str) -> None:
    """Refuse quantization-aware training where a command has no last stage for it.

    Raises:
        UsageError: naming the command that has one.
    """
    if recipe.train.quantize is not None:
        raise UsageError(
            f"train.quantize={recipe.train.quantize}: {command} does not support it",
            hint="--set train.quantize=null, then kd quantize RUN",
        )


def refuse_trained_object(request: Request) -> None:
    """Refuse a comparison that starts from the weights of a model object, since training changes them.

    Raises:
        UsageError: the student is an object and `student.start` is `file`.
    """
    if "student" in request.models and request.recipe.student.start == "file":
        raise UsageError(
            "a model object is trained in place: a comparison cannot start from its weights more than once",
            hint="save the model and give the file, or set student.start=fresh",
        )


def refuse_fresh_graph(request: Request) -> None:
    """Refuse fresh weights for a student file that is not a Keras model.

    Raises:
        UsageError: naming the file.
    """
    student = request.recipe.student
    if isinstance(student.model, File) and student.start == "fresh":
        file = resolve_model_file(Path(student.model.path), trust=request.trust)
        if detect_format(file) not in KERAS_FORMATS:
            raise reinitialization_error("student", str(file))


def reinitialization_error(role: str, name: str) -> UsageError:
    """The error for `start: fresh` with a model that cannot be reinitialized."""
    return UsageError(
        f"{role}.start is fresh, but {name} cannot be reinitialized: it is not a Keras model",
        hint=f"--set {role}.start=file keeps its weights",
    )


def check_effects(recipe: Recipe, losses: Sequence[Loss], dataset: Dataset, *, replicas: int) -> None:
    """Refuse settings that have no effect or do not work with this data.

    Raises:
        UsageError: naming the setting.
    """
    train, values = recipe.train, dataset.task == "regression"
    _check_losses(recipe, losses, dataset, replicas=replicas)
    on_classes = any(loss.needs_labels and not loss.needs_teacher for loss in losses) and not values
    idle = {
        "data.class_weight": recipe.data.class_weight != "none" and not on_classes,
        "train.label_smoothing": train.label_smoothing > 0 and not on_classes,
    }
    for setting, useless in idle.items():
        if useless:
            raise UsageError(
                f"{setting} applies only to losses on class labels, and the recipe has none",
                hint="remove it, or add {kind: labels} to the losses",
            )
    several = any(isinstance(section.views, int) and section.views > 1 for section in recipe.teachers)
    if several and not recipe.data.augment:
        raise UsageError(
            "teacher.views needs data.augment: without augmentation all views are the same",
            hint="remove teacher.views, or add data.augment",
        )
    _check_augment(recipe, dataset)
    compute_class_weights(dataset, recipe.data.class_weight)
    if train.early_stopping is not None and dataset.validation is None:
        raise UsageError("train.early_stopping needs a validation split", hint="--set data.validation=0.1")
    batch = min(train.batch_size, len(dataset.train))
    if batch % replicas:
        few = f" (limited to the {batch} training examples)" if batch < train.batch_size else ""
        raise UsageError(
            f"train.batch_size {train.batch_size}{few} is not divisible by the number of devices ({replicas})",
            hint=f"--batch-size {max(batch // replicas, 1) * replicas}",
        )
    try:
        train.optimizer.build(train.optimizer.learning_rate)
    except (ValueError, TypeError) as error:
        raise UsageError(f"train.optimizer: {summarize_error(error)}") from error


def _check_augment(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse augmentation that does not suit the labels.

    Raises:
        UsageError: naming the kind.
    """
    for augment in recipe.data.augment:
        if isinstance(augment, Mixing) and dataset.task != "classification":
            raise UsageError(
                f"data.augment: {augment.kind} mixes class labels, and the task is {dataset.task}",
                hint="remove it, or --set data.task=classification",
            )
        if augment.moves and dataset.is_dense:
            raise UsageError(
                f"data.augment: {augment.kind} moves the pixels of the image, but not those of its label map",
                hint="use brightness or contrast, which move no pixels",
            )


def check_trained_model(request: Request, network: Network, *, start: str, replicas: int) -> None:
    """Refuse a model that cannot be trained with these settings; report settings without effect as notes.

    Args:
        request: its recipe has the training settings, its context the listener.
        network: the model to train.
        start: `file`, or `fresh` for reinitialized weights.
        replicas: number of devices.

    Raises:
        UsageError, ModelError: naming the setting or the model.
    """
    _check_precision(request.recipe, network)
    quantized = _check_quantization(network, start=start)
    if quantized is not None:
        network.notes = (*network.notes, quantized)
    idle = _check_synchronization(request.recipe, network, replicas=replicas)
    if idle is not None:
        request.context.on_event(Note(idle))


def _check_synchronization(recipe: Recipe, trained: Network, *, replicas: int) -> str | None:
    """Refuse `train.synchronized` without batch normalization; return a note where it has no effect.

    Raises:
        UsageError: naming the setting.
    """
    if not recipe.train.synchronized:
        return None
    if not find_batch_norms(trained):
        raise UsageError(
            f"train.synchronized needs Keras batch normalization layers, and {trained.name} has none",
            hint="remove train.synchronized",
        )
    return "train.synchronized has no effect on one device" if replicas == 1 else None


def _check_precision(recipe: Recipe, student: Network) -> None:
    """Refuse half precision where it is not available, or many times slower.

    Raises:
        UsageError: naming the setting.
    """
    if recipe.train.precision == "float32" and isinstance(student, KerasNetwork) and not has_gpu():
        slow = [layer.name for layer in student.layers if layer.dtype_policy.compute_dtype == "float16"]
        if slow:
            raise UsageError(
                f"{student.name}: layers {', '.join(slow[:3])}{', ...' if slow[3:] else ''} compute in "
                "mixed_float16, which is more than ten times slower on a CPU",
                hint="--set train.precision=mixed_bfloat16",
            )
    if recipe.train.precision != "float32" and not isinstance(student, KerasNetwork):
        raise UsageError(
            f"train.precision {recipe.train.precision} needs a Keras model; {student.name} is a TensorFlow graph",
            hint="--set train.precision=float32",
        )


def _check_quantization(network: Network, *, start: str) -> str | None:
    """Refuse a model that Keras has quantized entirely; return a note where only some layers are quantized.

    `model.quantize("int8")` leaves integer kernels without gradients, so that only biases would be trained. LoRA
    weights added to such a kernel are trained.

    Args:
        network: the model to train.
        start: `file`, or `fresh`, which cannot initialize integer kernels.

    Raises:
        ModelError: none of its kernels can be trained.
    """
    if not isinstance(network, KerasNetwork):
        return None
    fixed = [
        layer.name
        for layer in network.layers
        if getattr(layer, "quantization_mode", None) is not None and not _have_kernel(layer.trainable_variables)
    ]
    if not fixed:
        return None
    names = f"{', '.join(fixed[:3])}{', ...' if fixed[3:] else ''}"
    if start == "fresh" or not _have_kernel(network.trainable_variables):
        raise ModelError(
            f"{network.name} was quantized by Keras (model.quantize): integer kernels ({names}) cannot be trained",
            hint="train the float model it was made from; kd export can quantize the trained model",
        )
    return f"{network.name} was quantized by Keras: integer kernels ({names}) are not trained"


def _have_kernel(variables: Variables) -> bool:
    return any(len(variable.shape) > 1 for variable in variables)


def _check_losses(recipe: Recipe, losses: Sequence[Loss], dataset: Dataset, *, replicas: int) -> None:
    """Refuse losses that do not work with this data, this batch size or these devices, before a model is opened.

    Raises:
        UsageError: naming the loss.
    """
    batch = min(recipe.train.batch_size, len(dataset.train))
    for loss in losses:
        _check_labels(recipe, loss, dataset)
        _check_task(loss, dataset)
        _check_classes(loss, dataset.outputs)
        if loss.one_device and replicas > 1:
            raise UsageError(
                f"losses.{loss.label} has state that devices cannot share: it needs one device (got {replicas})",
                hint="--devices one, or use relational or hint, which work on several devices",
            )
        if batch // replicas < loss.least_batch:
            raise _batch_error(loss, batch, len(dataset.train), replicas)


def _check_labels(recipe: Recipe, loss: Loss, dataset: Dataset) -> None:
    if loss.needs_labels and not dataset.labelled:
        raise UsageError(
            f"losses.{loss.label} needs labels, and the data has none",
            hint="remove it; soft_targets and soft_cross_entropy need no labels",
        )
    if not loss.one_class:
        return
    mixing = next((augment.kind for augment in recipe.data.augment if isinstance(augment, Mixing)), None)
    if mixing is not None:
        raise UsageError(
            f"losses.{loss.label} needs one class per example, and data.augment {mixing} mixes classes",
            hint=f"remove {mixing}, or use soft_targets, which needs no labels",
        )
    if dataset.train.soft_labels is not None:
        raise UsageError(
            f"losses.{loss.label} needs one class per example, and the labels are class probabilities",
            hint="soft_targets and labels work with soft labels",
        )
    if dataset.task == "multilabel":
        raise UsageError(
            f"losses.{loss.label} needs one class per example, and the task is multilabel",
            hint="soft_targets and labels work with several classes per example",
        )


def _check_task(loss: Loss, dataset: Dataset) -> None:
    cross_entropy = isinstance(loss, Labels) and loss.loss == "cross_entropy"
    if dataset.task == "regression" and (cross_entropy or "values" not in loss.accepted_output_kinds):
        name = "cross-entropy" if cross_entropy or "cross_entropy" in loss.kind else loss.kind
        raise UsageError(
            f"losses.{loss.label}: {name} needs classes, and the task is regression",
            hint="use soft_targets, which compares values, or labels with loss: mse, mae or huber",
        )
    if dataset.is_dense and loss.on_logits and not loss.leading_axes:
        raise UsageError(
            f"losses.{loss.label} needs one output vector per example, and the task is {dataset.task}",
            hint="soft_targets compares outputs pixel by pixel, channel_wise compares feature maps",
        )
    if dataset.has_void and loss.on_logits and (loss.whole_batch or loss.has_parts):
        raise UsageError(
            f"losses.{loss.label} compares pixels with each other, and data.ignore excludes some of them",
            hint="soft_targets and labels compare each pixel separately",
        )


def _check_classes(loss: Loss, classes: int) -> None:
    if 0 < classes < loss.least_classes:
        raise UsageError(
            f"losses.{loss.label} needs at least {loss.least_classes} classes (got {classes})",
            hint="soft_targets and logit_mse work with any number of classes",
        )


def _batch_error(loss: Loss, batch: int, examples: int, replicas: int) -> UsageError:
    unit = "batch" if replicas == 1 else "device"
    split = f": a batch of {batch} on {replicas} devices" if replicas > 1 else ""
    least = loss.least_batch * replicas
    remedy = f"--batch-size {least}" if examples >= least else f"the data has only {examples} training examples"
    return UsageError(
        f"losses.{loss.label} compares examples with each other: it needs at least {loss.least_batch} per {unit} "
        f"(got {batch // replicas}{split})",
        hint=f"{remedy}; soft_targets and hint work on single examples",
    )


def check_model_outputs(recipe: Recipe, dataset: Dataset, teacher: Network, student: Network) -> None:
    """Refuse outputs that cannot be compared, and feature losses on models without accessible layers.

    Raises:
        UsageError: too few classes for a loss.
        ModelError: naming the loss or both models.
    """
    for loss in recipe.losses or ():
        for role, network in (("teacher", teacher), ("student", student)):
            if not loss.on_logits and not network.taps:
                raise ModelError(
                    f"losses.{loss.label} compares inner layers, and those of the {role} ({network.name}) are not "
                    "accessible",
                    hint="use soft_targets, which needs only outputs, or give the .keras file of the model",
                )
        if loss.on_logits and loss.needs_teacher and teacher.output_kind != student.output_kind:
            raise ModelError(
                f"the teacher's outputs are {teacher.output_kind}, the student's {student.output_kind}: they "
                "cannot be compared",
                hint="use models with the same output kind, or only feature losses",
            )
        if student.output_kind not in loss.accepted_output_kinds:
            raise ModelError(
                f"losses.{loss.label} needs outputs of the kind {' or '.join(loss.accepted_output_kinds)}; "
                f"those of the student ({student.name}) are {student.output_kind}",
                hint="soft_targets and logit_mse compare outputs of every kind",
            )
        _check_classes(loss, student.outputs)
    ours, theirs = student.output_shape[:-1], teacher.output_shape[:-1]
    if None not in (*ours, *theirs) and ours != theirs:
        raise ModelError(
            f"the output maps of the teacher ({teacher.name}) have the size {_format_size(theirs)}, those of the "
            f"student ({student.name}) {_format_size(ours)}",
            hint="use two models with the same output size",
        )


def _format_size(size: Shape) -> str:
    return "×".join(str(side) for side in size) or "1"
