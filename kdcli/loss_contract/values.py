"""The points of the losses' contract that concern values."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcli.lazy import keras, tf
from kdcli.loss import Parts
from kdcli.loss_contract.outcome import (
    ABSOLUTE,
    RELATIVE,
    ContractViolation,
    NotApplicable,
    format_value,
    largest_magnitude,
    require_equal,
)
from kdcli.loss_contract.trial import (
    ROLES,
    Trial,
    draw_inputs,
    freeze_batch_norm,
    list_tensors,
    make_trial,
    map_tensors,
)
from kdcli.models.variables import preserve_values


def check_value_per_example(trial: Trial) -> None:
    """(batch,), where a value does not change with the other examples; a scalar where it depends on them."""
    found = trial.value().shape
    if trial.loss.whole_batch:
        if found.rank != 0:
            raise ContractViolation(f"whole_batch says that the value is a scalar, it is of shape {tuple(found)}")
        return
    if found.rank != 1 or found[0] != trial.batch:
        raise ContractViolation(f"it gives {tuple(found)} for a batch of {trial.batch}, not one value an example")
    half = trial.batch // 2
    other = {
        name: map_tensors(value, lambda whole: tf.concat([whole[:half], whole[half:][::-1]], axis=0))
        for name, value in trial.given.items()
    }
    other["student"] = map_tensors(
        other["student"], lambda whole: tf.concat([whole[:half], 2 * whole[half:]], axis=0)
    )
    with freeze_batch_norm(trial.parts):
        require_equal(
            trial.value()[:half],
            trial.with_changes(**other).value()[:half],
            "a value changes with the other examples",
        )


def check_compiled(trial: Trial) -> None:
    """A training step is compiled, and on several devices no kind knows the size of its batch beforehand."""
    size = trial.batch if trial.loss.one_device else None
    structure = dict(trial.given)
    flat = tf.nest.flatten(structure)
    signature = [tf.TensorSpec((size, *tensor.shape[1:]), tensor.dtype) for tensor in flat]

    def formula(*inputs: Any) -> Any:
        given = tf.nest.pack_sequence_as(structure, inputs)
        return trial.call({**given, "progress": tf.constant(0.0)})

    with preserve_values(trial.parts.variables):
        found = tf.function(formula, input_signature=signature, autograph=False)(*flat)
    require_equal(found, trial.value(), "it gives something else in a compiled step")


def check_repeatable(trial: Trial) -> None:
    """The same inputs, parts and random states give the same value."""
    first, second = trial.value().numpy(), trial.value().numpy()
    if not np.array_equal(first, second, equal_nan=True):
        raise ContractViolation(f"twice the same inputs gave {format_value(first)} and {format_value(second)}")


def check_not_negative(trial: Trial) -> None:
    """Where the kind says so."""
    if not trial.loss.non_negative:
        raise NotApplicable("the kind may be negative")
    for seed, size in ((1, 1.0), (2, 4.0), (3, 0.1)):
        lowest = float(np.min(_redrawn(trial, seed=seed, size=size).value()))
        if np.isnan(lowest):
            raise ContractViolation(f"it gave {lowest} for inputs of a size of {size:g}")
        if lowest < -ABSOLUTE:
            raise ContractViolation(f"it gave {lowest:.4g}; say non_negative = False if that is meant")


def check_zero_when_equal(trial: Trial) -> None:
    """No value and no gradient for a student that is its teacher, where the kind says so."""
    if not trial.loss.zero_when_equal:
        raise NotApplicable("the kind has another value at its best")
    usual, slopes = trial.gradients()
    value, none = trial.with_changes(teacher=trial.given["student"]).gradients()
    largest = float(np.max(np.abs(value)))
    bound = RELATIVE * float(np.max(np.abs(usual))) + ABSOLUTE
    if np.isnan(largest) or largest > bound:
        raise ContractViolation(f"a student that equals its teacher has a loss of {largest:.4g}")
    steepest, usually = largest_magnitude(none), largest_magnitude(slopes)
    if steepest > 1e-3 * usually + ABSOLUTE:
        raise ContractViolation(
            f"a student that equals its teacher has a gradient of {steepest:.4g}, else {usually:.4g}"
        )


def check_two_replicas(trial: Trial) -> None:
    """Two replicas with half of the batch each come to the same."""
    if trial.loss.whole_batch:
        raise NotApplicable("the value is of the whole batch: a replica sees its share")
    if trial.loss.one_device:
        raise NotApplicable("the kind works on one device")
    if _draws(trial.parts):
        raise NotApplicable("the kind draws at random")
    if trial.value().shape.rank != 1:
        raise NotApplicable("it gives no value for each example")
    half = trial.batch // 2
    with freeze_batch_norm(trial.parts):
        shares = [trial.rows(0, half).value(), trial.rows(half, trial.batch).value()]
        require_equal(tf.concat(shares, axis=0), trial.value(), "half of the batch gives other values")


def check_leading_axes(trial: Trial) -> None:
    """Logits of maps or tokens: the mean over the positions, or positions as examples for the whole batch."""
    loss = trial.loss
    if not loss.on_logits:
        raise NotApplicable("features have axes of their own")
    if not loss.leading_axes:
        raise NotApplicable("the kind takes logits (batch, classes)")
    steps = make_trial(loss, middle=(3,))
    found = steps.value()
    if loss.whole_batch:
        flat = {name: _positions_as_rows(steps.given[name]) for name in (*ROLES, "labels")}
        alone = steps.with_changes(**flat, index=tf.range(flat["labels"].shape[0]))
        require_equal(found, alone.value(), "positions are not examples of their own")
        return
    if found.shape.rank != 1:
        logits = tuple(steps.given["student"].shape)
        raise ContractViolation(f"it gives {tuple(found.shape)} for logits {logits}, not one value an example")
    if steps.parts.variables:
        # What its parts make of the positions together is theirs.
        return
    at = [
        steps.with_changes(**{name: steps.given[name][:, step] for name in (*ROLES, "labels")}).value()
        for step in range(3)
    ]
    require_equal(found, tf.reduce_mean(tf.stack(at), axis=0), "it is not the mean over the positions")


def _redrawn(trial: Trial, *, seed: int, size: float) -> Trial:
    ours, theirs = ([tuple(tensor.shape[1:]) for tensor in list_tensors(trial.given[side])] for side in ROLES)
    return trial.with_changes(**draw_inputs(trial.loss, ours, theirs, batch=trial.batch, seed=seed, size=size))


def _positions_as_rows(tensor: Any) -> Any:
    return tf.reshape(tensor, (-1, *tensor.shape[2:]))


def _draws(parts: Parts) -> bool:
    return any(isinstance(item, keras.random.SeedGenerator) for item in tf.nest.flatten(dict(parts.kept)))
