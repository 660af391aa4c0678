"""Losses that this data, these models or these devices cannot give what they need."""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.augment import Mixing
from kdcli.data.dataset import Dataset
from kdcli.errors import ModelError, UsageError
from kdcli.loss import Loss
from kdcli.losses.labels import Labels
from kdcli.models.network import Network
from kdcli.recipe.sections import Recipe


def check_losses(recipe: Recipe, losses: Sequence[Loss], dataset: Dataset, *, replicas: int) -> None:
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
    if dataset.task == "regression" and (cross_entropy or "values" not in loss.works_on):
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
    if dataset.has_void and loss.on_logits and (loss.whole_batch or loss.owns_parts):
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


def check_heads(recipe: Recipe, dataset: Dataset, teacher: Network, student: Network) -> None:
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
        if loss.on_logits and loss.needs_teacher and teacher.head != student.head:
            raise ModelError(
                f"the teacher's outputs are {teacher.head}, the student's {student.head}: they cannot be compared",
                hint="models with the same kind of output, or only feature losses",
            )
        if student.head not in loss.works_on:
            raise ModelError(
                f"losses.{loss.label} works on {' or '.join(loss.works_on)}; the outputs of the student "
                f"({student.name}) are {student.head}",
                hint="soft_targets and logit_mse compare outputs of every kind",
            )
        _check_classes(loss, student.outputs)
    ours, theirs = student.output_shape[:-1], teacher.output_shape[:-1]
    if None not in (*ours, *theirs) and ours != theirs:
        raise ModelError(
            f"the teacher ({teacher.name}) gives maps of {theirs}, the student ({student.name}) of {ours}",
            hint="two models whose outputs have the same size",
        )
