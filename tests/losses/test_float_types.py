"""All kinds accept mixed float types, and layers under any dtype policy."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.loss import Given
from kdcli.loss_contract.trial import EXAMPLE_COUNT, list_tensors, make_trial, map_tensors
from kdcli.losses import LOSS_KINDS, make

KIND = pytest.mark.parametrize("kind", LOSS_KINDS)


def cast(trial, dtype, *sides):
    return trial.with_changes(
        **{side: map_tensors(trial.given[side], lambda tensor: tf.cast(tensor, dtype)) for side in sides}
    )


def shapes(given, side):
    return tuple(tuple(tensor.shape[1:]) for tensor in list_tensors(given[side]))


@KIND
def test_sides_of_two_float_types_are_compared_in_the_wider_one(kind):
    trial = make_trial(make(kind))
    expected = trial.value().numpy()
    for side in ("student", "teacher"):
        mixed = cast(trial, "float64", side)
        value, slopes = mixed.gradients()
        used = side == "student" or mixed.loss.needs_teacher
        assert value.dtype == ("float64" if used else "float32")
        np.testing.assert_allclose(value, expected, rtol=2e-4, atol=1e-5)
        assert {slope.dtype for slope in slopes} == {list_tensors(mixed.given["student"])[0].dtype}


@KIND
def test_numpy_arrays_are_accepted_like_tensors(kind):
    trial = make_trial(make(kind))
    arrays = {
        side: map_tensors(trial.given[side], lambda tensor: tensor.numpy()) for side in ("student", "teacher")
    }
    given = trial.with_changes(
        **{**arrays, "teacher": map_tensors(arrays["teacher"], lambda array: array.astype("float64"))}
    )
    np.testing.assert_allclose(given.value(), trial.value(), rtol=2e-4, atol=1e-5)


@KIND
def test_parts_of_another_float_type_fit_wider_features(kind):
    trial = make_trial(make(kind))
    value, slopes = cast(trial, "float64", "student", "teacher").gradients()
    assert {tensor.dtype for tensor in (value, *slopes)} == {tf.float64}
    np.testing.assert_allclose(value, trial.value(), rtol=2e-4, atol=1e-5)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def half_precision(request):
    """A dtype policy of models, which the layers of losses do not follow."""
    before = keras.config.dtype_policy()

    def choose(name):
        keras.config.set_dtype_policy(name)

    yield lambda: choose(request.param)
    choose(before)


@pytest.mark.parametrize("kind", [kind for kind, member in LOSS_KINDS.items() if make(kind).has_parts])
def test_parts_compute_in_single_precision_under_any_policy(kind, half_precision):
    trial = make_trial(make(kind))
    known = tuple((np.ones(shape[-1]), np.zeros(shape[-1])) for shape in shapes(trial.given, "teacher"))
    given = Given(
        shapes(trial.given, "student"),
        shapes(trial.given, "teacher"),
        examples=EXAMPLE_COUNT,
        batch=trial.batch,
        normalizations=known,
    )
    found = []
    for prepare in (lambda: None, half_precision):
        prepare()
        keras.utils.set_random_seed(0)
        built = replace(trial, parts=trial.loss.build(given))
        value, slopes = built.gradients("student", "parts")
        assert {tensor.dtype for tensor in (value, *slopes) if tensor is not None} == {tf.float32}
        found.append(value.numpy())
    np.testing.assert_array_equal(*found)
