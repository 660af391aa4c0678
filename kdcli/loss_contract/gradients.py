"""The points of the losses' contract that concern gradients and number types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kdcli.lazy import tf
from kdcli.loss_contract.outcome import Broken, Skipped, largest_of, same
from kdcli.loss_contract.trial import SIDES, Trial, each, settled, try_out

HALF = ("float16", "bfloat16")
LARGE = 1e4


def reaches_the_student(trial: Trial) -> None:
    """Every tensor of the student gets a gradient."""
    _, slopes = trial.slopes()
    for number, slope in enumerate(slopes):
        if slope is None or largest_of([slope]) == 0.0:
            raise Broken(f"no gradient reaches the student{f' feature {number}' if len(slopes) > 1 else ''}")


def leaves_the_teacher(trial: Trial) -> None:
    """The teacher gets none."""
    if not trial.loss.needs_teacher:
        raise Skipped("the kind needs no teacher")
    steepest = largest_of(trial.slopes("teacher")[1])
    if steepest > 0.0:
        raise Broken(f"the teacher gets a gradient of {steepest:.4g}: stop_gradient is missing")


def can_be_weighted(trial: Trial) -> None:
    """An example with a sample weight of 0 has no part in the gradient."""
    if trial.loss.whole_batch:
        raise Skipped("the value is of the whole batch: sample weights do not act")
    if trial.value().shape.rank != 1:
        raise Skipped("it gives no value for each example to weight")
    half = trial.batch // 2
    weights = tf.cast(tf.range(trial.batch) < half, "float32")
    with settled(trial.parts):
        _, slopes = trial.slopes(weights=weights)
    steepest, usually = largest_of([slope[half:] for slope in slopes]), largest_of(slopes)
    if steepest > 1e-6 * usually:
        raise Broken(f"an example of weight 0 has a gradient of {steepest:.4g}, others {usually:.4g}")


def trains_its_parts(trial: Trial) -> None:
    """What is `trained` gets a gradient, what is `kept` is not trained, and all of it is there before a call."""
    loss, parts = trial.loss, trial.parts
    if not loss.owns_parts:
        raise Skipped("the kind has no parts")
    known = [id(variable) for variable in parts.variables]
    if len(known) != len(set(known)):
        raise Broken("a variable stands in the parts twice")
    if len(known) != trial.built:
        raise Broken(f"the first call makes {len(known) - trial.built} variables more: build them in build()")
    _, slopes = trial.slopes("parts")
    for variable, slope in zip(parts.trainable_variables, slopes, strict=True):
        # A bias before batch statistics has none but rounding.
        if slope is None or (variable.ndim > 1 and largest_of([slope]) == 0.0):
            raise Broken(f"trained part {variable.path} gets no gradient")


def computes_in_float32(trial: Trial) -> None:
    """Inputs of half precision: computed in float32, finite, with a gradient of their own type."""
    for dtype in HALF:
        narrow = _cast(trial, dtype)
        value, slopes = narrow.slopes()
        if value.dtype != "float32":
            raise Broken(f"inputs in {dtype} give {value.dtype.name}, not float32")
        if not _finite([value, *slopes]):
            raise Broken(f"inputs in {dtype}: a value or a gradient is not finite")
        same(value, _cast(narrow, "float32").value(), f"inputs in {dtype} are not computed in float32")


def stays_in_float64(trial: Trial) -> None:
    """Inputs of double precision, as a direct call may have, are computed in it."""
    value, slopes = try_out(trial.loss, dtype="float64").slopes()
    types = {tensor.dtype.name for tensor in [value, *slopes] if tensor is not None}
    if types != {"float64"}:
        raise Broken(f"inputs in float64 give {', '.join(sorted(types))}")


def stays_finite(trial: Trial) -> None:
    """Value and gradient, for inputs where roots, logarithms and divisions go wrong."""
    for name, tried in _extremes(trial):
        _try_extreme(name, tried)
        # A zero or constant row must not have a gradient that half precision cannot hold.
        if not name.startswith("large"):
            _try_extreme(f"{name} in float16", _cast(tried, "float16"))


def _try_extreme(name: str, tried: Trial) -> None:
    value, slopes = tried.slopes("student", "parts")
    if not _finite([value]):
        raise Broken(f"{name}: the value is not finite")
    if not _finite(slopes):
        raise Broken(f"{name}: the gradient is not finite")


def _extremes(trial: Trial) -> Iterator[tuple[str, Trial]]:
    large = {side: each(trial.given[side], lambda tensor: LARGE * tf.sign(tensor)) for side in SIDES}
    yield "large inputs", trial.but(**large)
    yield "large inputs on one side", trial.but(student=large["student"])
    yield "equal inputs", trial.but(teacher=trial.given["student"])
    for name, change in (
        ("zero", tf.zeros_like),
        ("constant", tf.ones_like),
        ("tiny", lambda tensor: 1e-20 * tensor),
        ("duplicate", lambda tensor: tf.zeros_like(tensor) + tensor[:1]),
    ):
        # Row 2 is changed on both sides, its neighbours on one.
        rows = {"student": _in_rows(change, 0, 3), "teacher": _in_rows(change, 2, 5)}
        yield f"{name} rows", trial.but(**{side: each(trial.given[side], rows[side]) for side in SIDES})
        for side in SIDES:
            yield f"only {name} rows of the {side}", trial.but(**{side: each(trial.given[side], change)})
    least = trial.loss.least_batch
    yield f"a batch of {least}", trial.rows(0, least)


def _in_rows(change: Callable[[Any], Any], begin: int, end: int) -> Callable[[Any], Any]:
    return lambda tensor: tf.concat([tensor[:begin], change(tensor)[begin:end], tensor[end:]], axis=0)


def _cast(trial: Trial, dtype: str) -> Trial:
    return trial.but(**{side: each(trial.given[side], lambda tensor: tf.cast(tensor, dtype)) for side in SIDES})


def _finite(values: list[Any]) -> bool:
    return all(np.isfinite(np.asarray(tf.cast(value, "float32"))).all() for value in values if value is not None)
