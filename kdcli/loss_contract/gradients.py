"""Checks of gradients, data types and extreme inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kdcli.lazy import tf
from kdcli.loss_contract.outcome import ContractViolation, NotApplicable, largest_magnitude, require_equal
from kdcli.loss_contract.trial import ROLES, Trial, freeze_batch_norm, make_trial, map_tensors
from kdcli.tensors import Tensor

HALF = ("float16", "bfloat16")
LARGE = 1e4


def check_student_gradient(trial: Trial) -> None:
    """Every output or feature of the student gets a gradient."""
    _, gradients = trial.gradients()
    for number, gradient in enumerate(gradients):
        if gradient is None or largest_magnitude([gradient]) == 0.0:
            feature = f" feature {number}" if len(gradients) > 1 else ""
            raise ContractViolation(f"no gradient reaches the student{feature}")


def check_teacher_constant(trial: Trial) -> None:
    """The teacher gets no gradient."""
    if not trial.loss.needs_teacher:
        raise NotApplicable("the kind needs no teacher")
    largest = largest_magnitude(trial.gradients("teacher")[1])
    if largest > 0.0:
        raise ContractViolation(f"the teacher gets a gradient of {largest:.4g}; stop_gradient is missing")


def check_sample_weights(trial: Trial) -> None:
    """An example with a sample weight of 0 does not contribute to the gradient."""
    if trial.loss.whole_batch:
        raise NotApplicable("the value is one scalar for the batch, which has no sample weights")
    if trial.value().shape.rank != 1:
        raise NotApplicable("it has no value for each example to weight")
    half = trial.batch // 2
    weights = tf.cast(tf.range(trial.batch) < half, "float32")
    with freeze_batch_norm(trial.parts):
        _, gradients = trial.gradients(weights=weights)
    largest, usual = largest_magnitude([gradient[half:] for gradient in gradients]), largest_magnitude(gradients)
    if largest > 1e-6 * usual:
        raise ContractViolation(f"an example of weight 0 has a gradient of {largest:.4g}, others {usual:.4g}")


def check_trained_parts(trial: Trial) -> None:
    """All `trained` parts get a gradient, and all parts are built before the first call."""
    loss, parts = trial.loss, trial.parts
    if not loss.has_parts:
        raise NotApplicable("the kind has no parts")
    known = [id(variable) for variable in parts.variables]
    if len(known) != len(set(known)):
        raise ContractViolation("a variable occurs twice in the parts")
    if len(known) != trial.built:
        raise ContractViolation(
            f"the first call creates {len(known) - trial.built} variables; they must be built in build()"
        )
    _, gradients = trial.gradients("parts")
    for variable, gradient in zip(parts.trainable_variables, gradients, strict=True):
        # The gradient of a bias before batch statistics is only rounding.
        if gradient is None or (variable.ndim > 1 and largest_magnitude([gradient]) == 0.0):
            raise ContractViolation(f"trained part {variable.path} gets no gradient")


def check_half_precision(trial: Trial) -> None:
    """Inputs in half precision are computed in float32, and value and gradient are finite."""
    for dtype in HALF:
        narrow = _cast(trial, dtype)
        value, gradients = narrow.gradients()
        if value.dtype != "float32":
            raise ContractViolation(f"inputs in {dtype} give {value.dtype.name} (expected float32)")
        if not _are_finite([value, *gradients]):
            raise ContractViolation(f"inputs in {dtype}: a value or gradient is not finite")
        require_equal(value, _cast(narrow, "float32").value(), f"inputs in {dtype} are not computed in float32")


def check_double_precision(trial: Trial) -> None:
    """Inputs in double precision, possible in a direct call, are computed in double precision."""
    value, gradients = make_trial(trial.loss, dtype="float64").gradients()
    types = {tensor.dtype.name for tensor in [value, *gradients] if tensor is not None}
    if types != {"float64"}:
        raise ContractViolation(f"inputs in float64 give {', '.join(sorted(types))} (expected float64)")


def check_extreme_inputs(trial: Trial) -> None:
    """Value and gradient are finite for inputs where roots, logarithms and divisions may fail."""
    for name, extreme in _make_extremes(trial):
        _require_finite(name, extreme)
        # The gradient of a zero or constant row must not overflow in half precision.
        if not name.startswith("large"):
            _require_finite(f"{name} in float16", _cast(extreme, "float16"))


def _require_finite(name: str, trial: Trial) -> None:
    value, gradients = trial.gradients("student", "parts")
    if not _are_finite([value]):
        raise ContractViolation(f"{name}: the value is not finite")
    if not _are_finite(gradients):
        raise ContractViolation(f"{name}: the gradient is not finite")


def _make_extremes(trial: Trial) -> Iterator[tuple[str, Trial]]:
    large = {role: map_tensors(trial.given[role], lambda tensor: LARGE * tf.sign(tensor)) for role in ROLES}
    yield "large inputs", trial.with_changes(**large)
    yield "large inputs of the student", trial.with_changes(student=large["student"])
    yield "equal inputs", trial.with_changes(teacher=trial.given["student"])
    for name, change in (
        ("zero", tf.zeros_like),
        ("constant", tf.ones_like),
        ("tiny", lambda tensor: 1e-20 * tensor),
        ("duplicate", lambda tensor: tf.zeros_like(tensor) + tensor[:1]),
    ):
        # Row 2 is changed for both models, its neighbours for one.
        rows = {"student": _change_rows(change, 0, 3), "teacher": _change_rows(change, 2, 5)}
        yield (
            f"{name} rows",
            trial.with_changes(**{role: map_tensors(trial.given[role], rows[role]) for role in ROLES}),
        )
        for role in ROLES:
            yield (
                f"only {name} rows of the {role}",
                trial.with_changes(**{role: map_tensors(trial.given[role], change)}),
            )
    least = trial.loss.least_batch
    yield f"a batch of {least}", trial.select_rows(0, least)


def _change_rows(change: Callable[[Tensor], Tensor], begin: int, end: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tf.concat([tensor[:begin], change(tensor)[begin:end], tensor[end:]], axis=0)


def _cast(trial: Trial, dtype: str) -> Trial:
    return trial.with_changes(
        **{role: map_tensors(trial.given[role], lambda tensor: tf.cast(tensor, dtype)) for role in ROLES}
    )


def _are_finite(values: Sequence[Tensor | None]) -> bool:
    return all(np.isfinite(np.asarray(tf.cast(value, "float32"))).all() for value in values if value is not None)
