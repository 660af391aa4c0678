"""Checks of the values of a loss."""

from __future__ import annotations

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
from kdcli.tensors import Tensor


def check_value_per_example(trial: Trial) -> None:
    """The value is (batch,) and independent of the other examples; with `whole_batch` it is a scalar."""
    found = trial.value().shape
    if trial.loss.whole_batch:
        if found.rank != 0:
            raise ContractViolation(
                f"the value has the shape {tuple(found)} (whole_batch is set: expected a scalar)"
            )
        return
    if found.rank != 1 or found[0] != trial.batch:
        raise ContractViolation(
            f"the value has the shape {tuple(found)} for a batch of {trial.batch} (expected one value per example)"
        )
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
            "a value depends on the other examples",
        )


def check_compiled(trial: Trial) -> None:
    """A compiled step gives the same value, with an unknown batch size unless the loss needs one device."""
    size = trial.batch if trial.loss.one_device else None
    structure = dict(trial.given)
    flat = tf.nest.flatten(structure)
    signature = [tf.TensorSpec((size, *tensor.shape[1:]), tensor.dtype) for tensor in flat]

    def formula(*inputs: Tensor) -> Tensor:
        given = tf.nest.pack_sequence_as(structure, inputs)
        return trial.call({**given, "progress": tf.constant(0.0)})

    with preserve_values(trial.parts.variables):
        found = tf.function(formula, input_signature=signature, autograph=False)(*flat)
    require_equal(found, trial.value(), "a compiled step gives another value")


def check_repeatable(trial: Trial) -> None:
    """The same inputs, parts and random states give the same value."""
    first, second = trial.value().numpy(), trial.value().numpy()
    if not np.array_equal(first, second, equal_nan=True):
        raise ContractViolation(f"the same inputs gave {format_value(first)} and {format_value(second)}")


def check_not_negative(trial: Trial) -> None:
    """The value is not negative, unless the kind says that it can be."""
    if not trial.loss.non_negative:
        raise NotApplicable("the kind may be negative")
    for seed, size in ((1, 1.0), (2, 4.0), (3, 0.1)):
        lowest = float(np.min(_redraw(trial, seed=seed, size=size).value()))
        if np.isnan(lowest):
            raise ContractViolation(f"the value is {lowest} for inputs with a standard deviation of {size:g}")
        if lowest < -ABSOLUTE:
            raise ContractViolation(f"the value is {lowest:.4g}; set non_negative = False if this is intended")


def check_zero_when_equal(trial: Trial) -> None:
    """Value and gradient are 0 for a student that equals its teacher, unless the kind says otherwise."""
    if not trial.loss.zero_when_equal:
        raise NotApplicable("the minimum of the kind is not 0")
    usual, usual_gradients = trial.gradients()
    value, gradients = trial.with_changes(teacher=trial.given["student"]).gradients()
    largest = float(np.max(np.abs(value)))
    bound = RELATIVE * float(np.max(np.abs(usual))) + ABSOLUTE
    if np.isnan(largest) or largest > bound:
        raise ContractViolation(f"a student that equals its teacher has a loss of {largest:.4g}")
    largest, expected = largest_magnitude(gradients), largest_magnitude(usual_gradients)
    if largest > 1e-3 * expected + ABSOLUTE:
        raise ContractViolation(
            f"a student that equals its teacher has a gradient of {largest:.4g} (others: {expected:.4g})"
        )


def check_two_replicas(trial: Trial) -> None:
    """Two replicas with half of the batch each give the same values."""
    if trial.loss.whole_batch:
        raise NotApplicable(
            "the value is one scalar for the batch, and each replica has its own part of the batch"
        )
    if trial.loss.one_device:
        raise NotApplicable("the kind needs one device")
    if _draws(trial.parts):
        raise NotApplicable("the kind draws random numbers")
    if trial.value().shape.rank != 1:
        raise NotApplicable("it has no value for each example")
    half = trial.batch // 2
    with freeze_batch_norm(trial.parts):
        halves = [trial.select_rows(0, half).value(), trial.select_rows(half, trial.batch).value()]
        require_equal(tf.concat(halves, axis=0), trial.value(), "half of the batch gives different values")


def check_leading_axes(trial: Trial) -> None:
    """For logits of maps or tokens, the value is the mean over the positions; or positions count as examples."""
    loss = trial.loss
    if not loss.on_logits:
        raise NotApplicable("the kind compares features, not outputs")
    if not loss.leading_axes:
        raise NotApplicable("the kind accepts only logits (batch, classes)")
    steps = make_trial(loss, middle=(3,))
    found = steps.value()
    if loss.whole_batch:
        flat = {name: _flatten_positions(steps.given[name]) for name in (*ROLES, "labels")}
        flattened = steps.with_changes(**flat, index=tf.range(flat["labels"].shape[0]))
        require_equal(found, flattened.value(), "positions do not count as examples")
        return
    if found.shape.rank != 1:
        logits = tuple(steps.given["student"].shape)
        raise ContractViolation(
            f"the value has the shape {tuple(found.shape)} for logits {logits} (expected one value per example)"
        )
    if steps.parts.variables:
        # Parts may combine the positions in any way.
        return
    at = [
        steps.with_changes(**{name: steps.given[name][:, step] for name in (*ROLES, "labels")}).value()
        for step in range(3)
    ]
    require_equal(found, tf.reduce_mean(tf.stack(at), axis=0), "the value is not the mean over the positions")


def _redraw(trial: Trial, *, seed: int, size: float) -> Trial:
    student, teacher = ([tuple(tensor.shape[1:]) for tensor in list_tensors(trial.given[role])] for role in ROLES)
    return trial.with_changes(**draw_inputs(trial.loss, student, teacher, batch=trial.batch, seed=seed, size=size))


def _flatten_positions(tensor: Tensor) -> Tensor:
    return tf.reshape(tensor, (-1, *tensor.shape[2:]))


def _draws(parts: Parts) -> bool:
    return any(isinstance(item, keras.random.SeedGenerator) for item in tf.nest.flatten(dict(parts.kept)))
