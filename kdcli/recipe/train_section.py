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
    """Stop when a validation metric has not improved for `patience` epochs.

    Args:
        monitor: validation metric; the main metric of the task (accuracy, macro_f1, rmse, mean_iou) if omitted.
        patience: number of epochs; default 3.
    """

    monitor: Literal["accuracy", "loss", "macro_f1", "mae", "rmse", "mean_iou", "agreement"] | None = None
    patience: Count = 3


def _check_period(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(s|m|h| steps?| epochs?)", text):
        raise ValueError("must be a period such as 2m, 30s, '500 steps' or '1 epochs'")
    return text


class Checkpoint(Spec):
    """When checkpoints for `--resume` are written.

    Args:
        every: `2m`, `30s`, `1h`, `500 steps` or `1 epochs`.
        keep: number of checkpoints to keep; the newest valid one is used.
    """

    every: Annotated[str, AfterValidator(_check_period)] = "2m"
    keep: Annotated[int, Field(ge=1, le=100)] = 2


class TrainSection(Spec):
    """Training.

    Args:
        epochs: passes over the training examples; 10 if `steps` is omitted too, with `quantize`, 3, or more if
            these have fewer than 300 steps.
        steps: number of updates, instead of epochs.
        batch_size: examples in an update, over all devices.
        optimizer: a Keras optimizer with its arguments, or its name.
        schedule: learning rate schedule, or its name.
        early_stopping: off if omitted.
        gradient_clip: maximum global norm of the gradient; off if omitted.
        label_smoothing: fraction of the uniform distribution that is mixed into the labels of `labels` terms.
        precision: `float32` or `mixed_bfloat16`.
        quantize: `int8` for quantization-aware training (QAT): the student computes as its 8-bit file will. kd
            distill then trains the student first and adds QAT as the last stage.
        jit: XLA compilation of the step.
        seed: RNG seed for the weights, the example order, the augmentation and dropout.
        devices: `auto` (all GPUs, else the CPU), `one`, or `workers`: all processes named in TF_CONFIG.
        synchronized: whether batch normalization uses the whole batch over all devices instead of each device's
            slice.
        checkpoint: checkpoints for `--resume`.
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
    quantize: Literal["int8"] | None = None
    jit: Literal["off", "on"] = "off"
    seed: Seed = 0
    devices: Literal["auto", "one", "workers"] = "auto"
    synchronized: bool = False
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="after")
    def _check_length(self) -> TrainSection:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps cannot be combined: give one of them")
        if self.quantize is not None and self.precision != "float32":
            raise ValueError(f"quantize: {self.quantize} needs precision: float32")
        return self
