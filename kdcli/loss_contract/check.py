"""What every loss keeps, tried on inputs made for it: the contract of a kind, a user's own as well."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcli.lazy import keras
from kdcli.loss import Loss
from kdcli.loss_contract import gradients, settings, values
from kdcli.loss_contract.outcome import Broken, Skipped, said
from kdcli.loss_contract.trial import Trial, try_out

State = Literal["passed", "failed", "skipped"]

# What is tried, in this order; each takes a trial of the loss and raises `Broken` or `Skipped`.
CHECKS: dict[str, Callable[[Trial], None]] = {
    "mean over the batch": values.has_its_own_value_for_each_example,
    "compiled": values.is_the_same_when_compiled,
    "repeatable": values.is_repeatable,
    "not negative": values.is_not_negative,
    "zero when equal": values.is_zero_when_equal,
    "two shares": values.is_the_same_in_two_shares,
    "leading axes": values.averages_leading_axes,
    "feature shapes": settings.takes_the_shapes_it_names,
    "heads": settings.takes_the_heads_it_names,
    "labels": settings.takes_the_labels_it_names,
    "schedules": settings.follows_schedules,
    "student learns": gradients.reaches_the_student,
    "teacher is constant": gradients.leaves_the_teacher,
    "sample weights": gradients.can_be_weighted,
    "own parts": gradients.trains_its_parts,
    "half precision": gradients.computes_in_float32,
    "double precision": gradients.stays_in_float64,
    "extreme inputs": gradients.stays_finite,
}

# What decides whether a run trains what it says.
IN_A_RUN = ("mean over the batch", "not negative", "student learns", "teacher is constant", "extreme inputs")


@dataclass(frozen=True)
class Checked:
    """One point of the contract, and whether a loss keeps it.

    Args:
        name: of the point, a key of `CHECKS`, or `runs`.
        state: `passed`, `failed`, or `skipped` where it does not concern the kind.
        reason: why it failed or was skipped, in one line; empty when it passed.
    """

    name: str
    state: State
    reason: str = ""


def check(loss: Loss, names: Sequence[str] = tuple(CHECKS)) -> tuple[Checked, ...]:
    """Try every point of the contract on a loss; what its class variables say decides what concerns it.

    Sets the random seed of Python, numpy and Keras, so that what is drawn is the same each time.

    Args:
        loss: of any kind, with any options.
        names: of the points to try.

    Returns:
        `runs` first, then one entry for each point. When it does not run at all, the rest is skipped.
    """
    keras.utils.set_random_seed(0)
    try:
        trial = try_out(loss)
        trial.value()
    # The formula is somebody's own: it may raise anything.
    except Exception as error:
        skipped = [Checked(name, "skipped", "it does not run") for name in names]
        return Checked("runs", "failed", _said(error, loss)), *skipped
    return Checked("runs", "passed"), *(_checked(name, trial) for name in names)


def _checked(name: str, trial: Trial) -> Checked:
    try:
        CHECKS[name](trial)
    except Skipped as reason:
        return Checked(name, "skipped", str(reason))
    except Broken as reason:
        return Checked(name, "failed", str(reason))
    except Exception as error:
        return Checked(name, "failed", _said(error, trial.loss))
    return Checked(name, "passed")


def _said(error: Exception, loss: Loss) -> str:
    """What went wrong, with the line of the kind's own file where it passed through it."""
    formula = vars(type(loss)).get("__call__")
    source = inspect.getfile(formula) if inspect.isfunction(formula) else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    place = f" ({Path(source).name}:{lines[-1]})" if lines else ""
    return f"{said(error)}{place}"
