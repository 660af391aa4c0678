"""The table of optimizers matches Keras: classes, default learning rates, arguments."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from kdcli.recipe.optimizer import (
    _COMMON_ARGUMENTS,
    ADAM,
    OPTIMIZER_KINDS,
    OPTIMIZERS,
    PROPORTIONAL_TO_GRADIENT,
    AnyOptimizer,
)

# Arguments of Keras that recipes do not have: the loss scale belongs to the loop, others are not plain values.
LEFT_OUT = {"self", "learning_rate", "name", "kwargs", "loss_scale_factor"}
# The base class, and two classes that wrap other optimizers.
NO_ENTRY = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
ONLY_MUON = {"exclude_layers", "exclude_embeddings"}


def make(entry):
    return TypeAdapter(AnyOptimizer).validate_python(entry)


def plain_values(optimizer):
    plain = int | float | str | bool | None
    return {name: value for name, value in vars(optimizer).items() if isinstance(value, plain) and name != "name"}


def signature_of(kind):
    import keras

    return inspect.signature(getattr(keras.optimizers, OPTIMIZERS[kind][0]).__init__).parameters


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_default_learning_rate_is_that_of_keras(kind):
    assert make(kind).learning_rate == signature_of(kind)["learning_rate"].default


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_arguments_are_those_of_keras(kind):
    known = set(signature_of(kind)) - LEFT_OUT - (ONLY_MUON if kind == "muon" else set())
    assert {*OPTIMIZERS[kind][2], *_COMMON_ARGUMENTS} == known


def test_every_optimizer_of_keras_is_in_the_table():
    import keras

    classes = {
        name
        for name, member in vars(keras.optimizers).items()
        if inspect.isclass(member) and issubclass(member, keras.optimizers.Optimizer)
    }
    assert classes - NO_ENTRY == {keras_name for keras_name, _, _ in OPTIMIZERS.values()}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_built_optimizer_has_the_defaults_of_keras(kind):
    import keras

    built = make(kind).build(0.5)
    plain = getattr(keras.optimizers, OPTIMIZERS[kind][0])(learning_rate=0.5)
    assert type(built) is getattr(keras.optimizers, OPTIMIZERS[kind][0])
    assert plain_values(built) == plain_values(plain)
    assert float(built.learning_rate) == 0.5


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_optimizer_takes_a_step(kind):
    import keras

    variable = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    optimizer = make(kind).build(0.1)
    optimizer.build([variable])
    before = variable.numpy().copy()
    for _ in range(2):
        optimizer.apply([keras.ops.ones((2, 2))], [variable])
    assert (variable.numpy() != before).any()


def test_arguments_reach_keras():
    built = make({"kind": "sgd", "momentum": 0.9, "nesterov": True, "clipnorm": 1.0}).build(0.1)
    assert (built.momentum, built.nesterov, built.clipnorm) == (0.9, True, 1.0)
    assert float(built.learning_rate) == pytest.approx(0.1)


def test_a_name_is_an_optimizer_with_default_arguments():
    assert make("adam") == ADAM == OPTIMIZER_KINDS[0]()
    assert make("sgd").kind == "sgd"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("adan", "adan"),
        ({"kind": "adam", "momentum": 0.9}, "Extra inputs"),
        ({"kind": "adam", "learning_rate": 0.0}, "greater than 0"),
        ({"kind": "adam", "learning_rate": "1e-3"}, "valid number"),
        ({"kind": "sgd", "nesterov": 1}, "valid boolean"),
        ({"kind": "adam", "beta_1": float("inf")}, "finite number"),
    ],
)
def test_an_invalid_optimizer_is_refused(entry, words):
    with pytest.raises(ValidationError, match=words):
        make(entry)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_optimizers_with_steps_proportional_to_the_gradient_are_known(kind):
    import keras

    moved = []
    for weight in (1.0, 0.1):
        variable = keras.Variable(np.zeros((4, 4), "float32"))
        optimizer = make(kind).build(make(kind).learning_rate)
        optimizer.build([variable])
        random = np.random.default_rng(0)
        for _ in range(20):
            gradient = weight * (random.normal(size=(4, 4)) + 0.5)
            optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [variable])
        moved.append(float(np.abs(variable.numpy()).mean()))
    follows = moved[1] / moved[0] < 0.2
    assert follows == (kind in PROPORTIONAL_TO_GRADIENT)
