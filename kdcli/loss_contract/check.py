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
from kdcli.loss_contract.outcome import ContractViolation, NotApplicable, describe_error
from kdcli.loss_contract.trial import Trial, make_trial

CheckState = Literal["passed", "failed", "skipped"]

# What is tried, in this order; each takes a trial of the loss and raises `Broken` or `Skipped`.
CHECKS: dict[str, Callable[[Trial], None]] = {
    "mean over the batch": values.check_value_per_example,
    "compiled": values.check_compiled,
    "repeatable": values.check_repeatable,
    "not negative": values.check_not_negative,
    "zero when equal": values.check_zero_when_equal,
    "two shares": values.check_two_replicas,
    "leading axes": values.check_leading_axes,
    "feature shapes": settings.check_feature_shapes,
    "heads": settings.check_output_kinds,
    "labels": settings.check_mixed_labels,
    "schedules": settings.check_schedules,
    "student learns": gradients.check_student_gradient,
    "teacher is constant": gradients.check_teacher_constant,
    "sample weights": gradients.check_sample_weights,
    "own parts": gradients.check_trained_parts,
    "half precision": gradients.check_half_precision,
    "double precision": gradients.check_double_precision,
    "extreme inputs": gradients.check_extreme_inputs,
}

# What decides whether a run trains what it says.
PREFLIGHT_CHECKS = (
    "mean over the batch",
    "not negative",
    "student learns",
    "teacher is constant",
    "extreme inputs",
)


@dataclass(frozen=True)
class CheckResult:
    """One point of the contract, and whether a loss keeps it.

    Args:
        name: of the point, a key of `CHECKS`, or `runs`.
        state: `passed`, `failed`, or `skipped` where it does not concern the kind.
        reason: why it failed or was skipped, in one line; empty when it passed.
    """

    name: str
    state: CheckState
    reason: str = ""


def check_contract(loss: Loss, names: Sequence[str] = tuple(CHECKS)) -> tuple[CheckResult, ...]:
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
        trial = make_trial(loss)
        trial.value()
    # The formula is somebody's own: it may raise anything.
    except Exception as error:
        skipped = [CheckResult(name, "skipped", "it does not run") for name in names]
        return CheckResult("runs", "failed", _said(error, loss)), *skipped
    return CheckResult("runs", "passed"), *(_checked(name, trial) for name in names)


def _checked(name: str, trial: Trial) -> CheckResult:
    try:
        CHECKS[name](trial)
    except NotApplicable as reason:
        return CheckResult(name, "skipped", str(reason))
    except ContractViolation as reason:
        return CheckResult(name, "failed", str(reason))
    except Exception as error:
        return CheckResult(name, "failed", _said(error, trial.loss))
    return CheckResult(name, "passed")


def _said(error: Exception, loss: Loss) -> str:
    """What went wrong, with the line of the kind's own file where it passed through it."""
    formula = vars(type(loss)).get("__call__")
    source = inspect.getfile(formula) if inspect.isfunction(formula) else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    place = f" ({Path(source).name}:{lines[-1]})" if lines else ""
    return f"{describe_error(error)}{place}"
