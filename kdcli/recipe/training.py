"""The `train` section: length, optimizer, schedule, precision, devices, checkpoints."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from kdcli.recipe.optimizer import ADAM, AnyOptimizer
from kdcli.recipe.schedule import AnySchedule, Constant
from kdcli.recipe.types import Count, Seed
from kdcli.spec import Fraction, PositiveFloat, Spec


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
    label_smoothing: Annotated[Fraction, Field(lt=1)] = 0.0
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
