"""Check a loss, built-in or custom, against the contract on generated inputs."""

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

# The checks in the order in which they run; each raises `ContractViolation` or `NotApplicable`.
CHECKS: dict[str, Callable[[Trial], None]] = {
    "mean over the batch": values.check_value_per_example,
    "compiled": values.check_compiled,
    "repeatable": values.check_repeatable,
    "not negative": values.check_not_negative,
    "zero when equal": values.check_zero_when_equal,
    "two replicas": values.check_two_replicas,
    "leading axes": values.check_leading_axes,
    "feature shapes": settings.check_feature_shapes,
    "output kinds": settings.check_accepted_output_kinds,
    "labels": settings.check_mixed_labels,
    "schedules": settings.check_schedules,
    "student learns": gradients.check_student_gradient,
    "teacher is constant": gradients.check_teacher_constant,
    "sample weights": gradients.check_sample_weights,
    "trained parts": gradients.check_trained_parts,
    "half precision": gradients.check_half_precision,
    "double precision": gradients.check_double_precision,
    "extreme inputs": gradients.check_extreme_inputs,
}

# The checks before a run: whether it will train what the recipe says.
PREFLIGHT_CHECKS = (
    "mean over the batch",
    "not negative",
    "student learns",
    "teacher is constant",
    "extreme inputs",
)


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Args:
        name: a key of `CHECKS`, or `runs`.
        state: `passed`, `failed`, or `skipped` if the check does not apply to the kind.
        reason: why the check failed or was skipped, in one line; empty if it passed.
    """

    name: str
    state: CheckState
    reason: str = ""


def check_contract(loss: Loss, names: Sequence[str] = tuple(CHECKS)) -> tuple[CheckResult, ...]:
    """Check a loss against the contract; its class variables decide which checks apply.

    Sets the RNG seeds of Python, NumPy and Keras, so that the inputs are the same each time.

    Args:
        loss: a loss of any kind, with any settings.
        names: names of the checks to run.

    Returns:
        The result of `runs`, then one for each check. If the loss does not run, all others are skipped.
    """
    keras.utils.set_random_seed(0)
    try:
        trial = make_trial(loss)
        trial.value()
    # The formula may be custom code, which can raise anything.
    except Exception as error:
        skipped = [CheckResult(name, "skipped", "the loss does not run") for name in names]
        return CheckResult("runs", "failed", _explain(error, loss)), *skipped
    return CheckResult("runs", "passed"), *(_run_check(name, trial) for name in names)


def _run_check(name: str, trial: Trial) -> CheckResult:
    try:
        CHECKS[name](trial)
    except NotApplicable as reason:
        return CheckResult(name, "skipped", str(reason))
    except ContractViolation as reason:
        return CheckResult(name, "failed", str(reason))
    except Exception as error:
        return CheckResult(name, "failed", _explain(error, trial.loss))
    return CheckResult(name, "passed")


def _explain(error: Exception, loss: Loss) -> str:
    """What went wrong, with the last line of the kind's file in the traceback."""
    formula = vars(type(loss)).get("__call__")
    source = inspect.getfile(formula) if inspect.isfunction(formula) else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    location = f" ({Path(source).name}:{lines[-1]})" if lines else ""
    return f"{describe_error(error)}{location}"
