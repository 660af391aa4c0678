"""The points of the losses' contract that concern gradients and number types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kdcli.lazy import tf
from kdcli.loss_contract.outcome import ContractViolation, NotApplicable, largest_magnitude, require_equal
from kdcli.loss_contract.trial import ROLES, Trial, freeze_batch_norm, make_trial, map_tensors

HALF = ("float16", "bfloat16")
LARGE = 1e4


def check_student_gradient(trial: Trial) -> None:
    """Every tensor of the student gets a gradient."""
    _, slopes = trial.gradients()
    for number, slope in enumerate(slopes):
        if slope is None or largest_magnitude([slope]) == 0.0:
            raise ContractViolation(
                f"no gradient reaches the student{f' feature {number}' if len(slopes) > 1 else ''}"
            )


def check_teacher_constant(trial: Trial) -> None:
    """The teacher gets none."""
    if not trial.loss.needs_teacher:
        raise NotApplicable("the kind needs no teacher")
    steepest = largest_magnitude(trial.gradients("teacher")[1])
    if steepest > 0.0:
        raise ContractViolation(f"the teacher gets a gradient of {steepest:.4g}: stop_gradient is missing")


def check_sample_weights(trial: Trial) -> None:
    """An example with a sample weight of 0 has no part in the gradient."""
    if trial.loss.whole_batch:
        raise NotApplicable("the value is of the whole batch: sample weights do not act")
    if trial.value().shape.rank != 1:
        raise NotApplicable("it gives no value for each example to weight")
    half = trial.batch // 2
    weights = tf.cast(tf.range(trial.batch) < half, "float32")
    with freeze_batch_norm(trial.parts):
        _, slopes = trial.gradients(weights=weights)
    steepest, usually = largest_magnitude([slope[half:] for slope in slopes]), largest_magnitude(slopes)
    if steepest > 1e-6 * usually:
        raise ContractViolation(f"an example of weight 0 has a gradient of {steepest:.4g}, others {usually:.4g}")


def check_trained_parts(trial: Trial) -> None:
    """What is `trained` gets a gradient, what is `kept` is not trained, and all of it is there before a call."""
    loss, parts = trial.loss, trial.parts
    if not loss.has_parts:
        raise NotApplicable("the kind has no parts")
    known = [id(variable) for variable in parts.variables]
    if len(known) != len(set(known)):
        raise ContractViolation("a variable stands in the parts twice")
    if len(known) != trial.built:
        raise ContractViolation(
            f"the first call makes {len(known) - trial.built} variables more: build them in build()"
        )
    _, slopes = trial.gradients("parts")
    for variable, slope in zip(parts.trainable_variables, slopes, strict=True):
        # A bias before batch statistics has none but rounding.
        if slope is None or (variable.ndim > 1 and largest_magnitude([slope]) == 0.0):
            raise ContractViolation(f"trained part {variable.path} gets no gradient")


def check_half_precision(trial: Trial) -> None:
    """Inputs of half precision: computed in float32, finite, with a gradient of their own type."""
    for dtype in HALF:
        narrow = _cast(trial, dtype)
        value, slopes = narrow.gradients()
        if value.dtype != "float32":
            raise ContractViolation(f"inputs in {dtype} give {value.dtype.name}, not float32")
        if not _finite([value, *slopes]):
            raise ContractViolation(f"inputs in {dtype}: a value or a gradient is not finite")
        require_equal(value, _cast(narrow, "float32").value(), f"inputs in {dtype} are not computed in float32")


def check_double_precision(trial: Trial) -> None:
    """Inputs of double precision, as a direct call may have, are computed in it."""
    value, slopes = make_trial(trial.loss, dtype="float64").gradients()
    types = {tensor.dtype.name for tensor in [value, *slopes] if tensor is not None}
    if types != {"float64"}:
        raise ContractViolation(f"inputs in float64 give {', '.join(sorted(types))}")


def check_extreme_inputs(trial: Trial) -> None:
    """Value and gradient, for inputs where roots, logarithms and divisions go wrong."""
    for name, tried in _extremes(trial):
        _try_extreme(name, tried)
        # A zero or constant row must not have a gradient that half precision cannot hold.
        if not name.startswith("large"):
            _try_extreme(f"{name} in float16", _cast(tried, "float16"))


def _try_extreme(name: str, tried: Trial) -> None:
    value, slopes = tried.gradients("student", "parts")
    if not _finite([value]):
        raise ContractViolation(f"{name}: the value is not finite")
    if not _finite(slopes):
        raise ContractViolation(f"{name}: the gradient is not finite")


def _extremes(trial: Trial) -> Iterator[tuple[str, Trial]]:
    large = {side: map_tensors(trial.given[side], lambda tensor: LARGE * tf.sign(tensor)) for side in ROLES}
    yield "large inputs", trial.with_changes(**large)
    yield "large inputs on one side", trial.with_changes(student=large["student"])
    yield "equal inputs", trial.with_changes(teacher=trial.given["student"])
    for name, change in (
        ("zero", tf.zeros_like),
        ("constant", tf.ones_like),
        ("tiny", lambda tensor: 1e-20 * tensor),
        ("duplicate", lambda tensor: tf.zeros_like(tensor) + tensor[:1]),
    ):
        # Row 2 is changed on both sides, its neighbours on one.
        rows = {"student": _in_rows(change, 0, 3), "teacher": _in_rows(change, 2, 5)}
        yield (
            f"{name} rows",
            trial.with_changes(**{side: map_tensors(trial.given[side], rows[side]) for side in ROLES}),
        )
        for side in ROLES:
            yield (
                f"only {name} rows of the {side}",
                trial.with_changes(**{side: map_tensors(trial.given[side], change)}),
            )
    least = trial.loss.least_batch
    yield f"a batch of {least}", trial.rows(0, least)


def _in_rows(change: Callable[[Any], Any], begin: int, end: int) -> Callable[[Any], Any]:
    return lambda tensor: tf.concat([tensor[:begin], change(tensor)[begin:end], tensor[end:]], axis=0)


def _cast(trial: Trial, dtype: str) -> Trial:
    return trial.with_changes(
        **{side: map_tensors(trial.given[side], lambda tensor: tf.cast(tensor, dtype)) for side in ROLES}
    )


def _finite(values: list[Any]) -> bool:
    return all(np.isfinite(np.asarray(tf.cast(value, "float32"))).all() for value in values if value is not None)
