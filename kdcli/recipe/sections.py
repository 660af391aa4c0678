"""The recipe: everything that a run is asked to do, frozen and strict, checked whole before TensorFlow loads."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from kdcli.augment import AnyAugment
from kdcli.losses import AnyLoss
from kdcli.recipe.alternatives import (
    ClassColumns,
    ClassNames,
    ClassWeight,
    Count,
    Limit,
    WordOrSize,
    WordOrViews,
)
from kdcli.recipe.gates import GatesSection
from kdcli.recipe.optimizer import ADAM, AnyOptimizer
from kdcli.recipe.schedule import AnySchedule, Constant
from kdcli.sources import AnySource
from kdcli.spec import OutputKind, PositiveFloat, Share, Spec
from kdcli.zoo import AnyModel

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Scale = Literal["auto", "unit", "signed", "raw", "imagenet", "caffe"]
Task = Literal["classification", "multilabel", "regression", "segmentation"]
# Monitors of which less is better; of every other one more is better.
FALLING = ("loss", "mae", "rmse")


class InputSection(Spec):
    """How a raw example becomes a network's input. Only `uint8` pictures are scaled.

    Args:
        scale: `unit` [0, 1], `signed` [-1, 1], `raw`, `imagenet` (mean and deviation), `caffe` (BGR minus
            mean); `auto` is `unit` unless another one is clearly better.
        resize: `auto` (the network's own size) or [height, width].
        fit: `stretch`, `crop` (fill, then cut) or `pad` (fit, then fill with zeros).
        tensor: the inner tensor of a SavedModel that the examples are fed into, past what stands before it.
    """

    scale: Scale = "auto"
    resize: WordOrSize = "auto"
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    tensor: str | None = None


class DataSection(Spec):
    """The examples.

    Args:
        source: a name, a path, a mapping with `kind`, or `{train: D, validation: D, test: D}` of such.
        validation: share of the training part that selects the best weights, unless the source has one.
        task: what the labels are; `auto` looks at them.
        labels: `none` ignores labels; agreement with the teacher then selects.
        classes: names in label order, or a text file with one a line.
        class_weight: weights on label losses, by class name; `balanced` makes every class count the same.
        limit: how many training examples to use: a count, or a share written with a point.
        augment: augmentations, in order.
        seed: of the split, the limit and the views; `train.seed` when left out. `kd compare` holds it still, so
            that all repeats share the teacher's answers.
    """

    source: AnySource | None = None
    validation: Annotated[Share, Field(lt=1)] = 0.1
    task: Literal["auto", "classification", "multilabel", "regression", "segmentation"] = "auto"
    labels: Literal["auto", "none"] = "auto"
    classes: ClassNames | None = None
    class_weight: ClassWeight = "none"
    limit: Limit = 1.0
    augment: Annotated[tuple[AnyAugment, ...], Field(strict=False)] = ()
    seed: Seed | None = None


class TeacherSection(Spec):
    """The teacher.

    Args:
        model: a file or a zoo model.
        output_kind: what the last layer gives; `auto` looks at it and at its answers.
        precision: in which it answers; `auto` is half precision where the machine is faster in it and the answers
            stay the same.
        targets: where its answers are kept: on `disk` (the cache), in `memory`, or nowhere (`live`: it is asked
            in every step).
        start: for train-teacher only: `fresh` weights or those in the `file`.
        views: how many augmented views are answered and kept; epochs take them in turn. `all` is a new one every
            epoch, live; `auto` is 8, or as many as there are epochs or room for.
        signature: which signature of a SavedModel; `serving_default`, or the only one, when left out.
        output: which of several outputs.
        classes: which of its outputs belong to the classes of the data, in their order: column numbers; or the
            names of all its outputs (a list, or a text file with one a line), among which the data's are found.
        input: its preparation.
    """

    model: AnyModel | None = None
    output_kind: Literal["auto", OutputKind] = "auto"
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    targets: Literal["auto", "live", "memory", "disk"] = "auto"
    start: Literal["fresh", "file"] = "fresh"
    views: WordOrViews = "auto"
    signature: str | None = None
    output: str | None = None
    classes: ClassColumns | None = None
    input: InputSection = InputSection()


class StudentSection(Spec):
    """The student.

    Args:
        model: a file or a zoo model.
        output_kind: what the last layer gives.
        start: `file` (its weights as they are) or `fresh` (initialised by the seed); `auto` is `file`.
        signature: which signature of a SavedModel; `serving_default`, or the only one, when left out.
        output: which of several outputs.
        input: its preparation.
    """

    model: AnyModel | None = None
    output_kind: Literal["auto", OutputKind] = "auto"
    start: Literal["auto", "file", "fresh"] = "auto"
    signature: str | None = None
    output: str | None = None
    input: InputSection = InputSection()


class EarlyStopping(Spec):
    """Stop when a validation figure has not improved for `patience` epochs.

    Args:
        monitor: a validation figure; the task's own (accuracy, macro_f1, rmse, mean_iou) when left out.
        patience: epochs.
    """

    monitor: Literal["accuracy", "loss", "macro_f1", "mae", "rmse", "mean_iou", "agreement"] | None = None
    patience: Count = 3


def _period(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(s|m|h| steps?| epochs?)", text):
        raise ValueError("must be a period such as 2m, 30s, '500 steps' or '1 epochs'")
    return text


class Checkpoint(Spec):
    """When training is saved for `--resume`.

    Args:
        every: `2m`, `30s`, `1h`, `500 steps` or `1 epochs`.
        keep: how many checkpoints are kept; the newest valid one is used.
    """

    every: Annotated[str, AfterValidator(_period)] = "2m"
    keep: Annotated[int, Field(ge=1, le=100)] = 2


class TrainSection(Spec):
    """Training.

    Args:
        epochs: passes over the training examples; 10 when `steps` is not given either.
        steps: updates, instead of epochs.
        batch_size: examples in an update, over all devices.
        optimizer: a Keras optimizer with its arguments, or its name.
        schedule: of the learning rate.
        early_stopping: off when left out.
        gradient_clip: largest global norm of the gradient; off when left out.
        label_smoothing: share of the uniform distribution mixed into labels, for `labels` terms.
        precision: `float32` or `mixed_bfloat16`.
        jit: XLA compilation of the step.
        seed: of the weights, the order, the augmentation and dropout.
        devices: `auto` (all GPUs, else the CPU), `one`, or `workers`: all processes that TF_CONFIG names.
        synchronized: batch normalisation sees the whole batch over all devices, not each a share.
        checkpoint: for `--resume`.
    """

    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count = 64
    optimizer: AnyOptimizer = ADAM
    schedule: AnySchedule = Constant()
    early_stopping: EarlyStopping | None = None
    gradient_clip: PositiveFloat | None = None
    label_smoothing: Annotated[Share, Field(lt=1)] = 0.0
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    jit: Literal["off", "on"] = "off"
    seed: Seed = 0
    devices: Literal["auto", "one", "workers"] = "auto"
    synchronized: bool = False
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps exclude each other: give one")
        return self


class Recipe(Spec):
    """One distillation, or the training of one teacher."""

    version: Literal[1] = 1
    description: str = ""
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    losses: Annotated[tuple[AnyLoss, ...], Field(strict=False, min_length=1)] | None = None
    train: TrainSection = TrainSection()
    gates: GatesSection = GatesSection()

    @property
    def data_seed(self) -> int:
        """The seed of split, limit and views."""
        return self.train.seed if self.data.seed is None else self.data.seed

    @model_validator(mode="after")
    def _distinct_names(self) -> Recipe:
        labels = [loss.label for loss in self.losses or ()]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two losses are called {twice[0]!r}: give one of them a `name:`")
        return self
