"""Logits of saved models: exact where the last layer is known, and never passed through softmax twice."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.models.keras.network import KerasNetwork
from kdcli.models.outputs import resolve_output
from kdcli.models.preprocessing import Preprocessing

X = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
layers = keras.layers


def with_head(*head, units=4):
    """A model whose last layers are given, and the Dense layer before them as a model of its own."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, activation="tanh", name="hidden")(inputs)
    x = layers.Dense(units, name="linear", kernel_initializer=keras.initializers.RandomNormal(stddev=3))(hidden)
    linear = keras.Model(inputs, x)
    for layer in head:
        x = layer(x)
    return keras.Model(inputs, x), linear


def dense(activation, units=4):
    """A model that ends in Dense(activation), and the same without the activation."""
    model, linear = with_head(units=units)
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, activation="tanh", name="hidden")(inputs)
    closed = keras.Model(inputs, layers.Dense(units, activation=activation, name="linear")(hidden))
    closed.set_weights(model.get_weights())
    return closed, linear


def inside_another(activation):
    closed, linear = dense(activation)
    inputs = keras.Input((6,))
    return keras.Model(inputs, closed(inputs)), linear


def resolved(model, *, task="classification", outputs=4, setting="auto"):
    network = KerasNetwork(model, name="given").with_preprocessing(
        {"x": Preprocessing((6,), "float32", (6,), "float32")}
    )
    values = network.compute_saved_output({"x": X}).numpy()
    return resolve_output(network, setting=setting, task=task, output_count=outputs, values=values)


def logits(network):
    return network.compute({"x": X}).logits.numpy()


def softmax(values):
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


LAST = {
    "softmax": {
        "dense": lambda: dense("softmax"),
        "activation": lambda: with_head(layers.Activation("softmax")),
        "layer": lambda: with_head(layers.Softmax()),
        "nested": lambda: inside_another("softmax"),
    },
    "sigmoid": {
        "dense": lambda: dense("sigmoid"),
        "activation": lambda: with_head(layers.Activation("sigmoid")),
        "nested": lambda: inside_another("sigmoid"),
    },
}


@pytest.mark.parametrize("build", LAST["softmax"].values(), ids=list(LAST["softmax"]))
def test_logits_before_a_softmax_are_exact(build):
    model, linear = build()
    network = resolved(model)
    assert (network.saved_kind, network.output_kind) == ("probabilities", "logits")
    assert "before the softmax of" in network.logits_from
    np.testing.assert_allclose(logits(network), linear(X), atol=1e-6)


@pytest.mark.parametrize("build", LAST["softmax"].values(), ids=list(LAST["softmax"]))
def test_probabilities_are_never_softmaxed_again(build):
    model, _ = build()
    network = resolved(model)
    np.testing.assert_allclose(softmax(logits(network)), model(X), atol=1e-6)
    np.testing.assert_array_equal(network.compute_saved_output({"x": X}), model(X))


@pytest.mark.parametrize("build", LAST["sigmoid"].values(), ids=list(LAST["sigmoid"]))
def test_logits_before_a_sigmoid_are_exact(build):
    model, linear = build()
    network = resolved(model, task="multilabel")
    assert (network.saved_kind, network.output_kind) == ("sigmoid", "sigmoid")
    np.testing.assert_allclose(logits(network), linear(X), atol=1e-6)


def test_plain_logits_are_unchanged():
    model, linear = with_head()
    network = resolved(model)
    assert (network.saved_kind, network.logits_from) == ("logits", "output")
    np.testing.assert_array_equal(logits(network), linear(X))


def test_one_sigmoid_becomes_two_classes():
    model, linear = dense("sigmoid", units=1)
    network = resolved(model, outputs=2)
    assert (network.outputs, network.output_kind) == (2, "logits")
    chance = model(X).numpy()
    np.testing.assert_allclose(softmax(logits(network)), np.concatenate([1 - chance, chance], axis=1), atol=1e-6)
    np.testing.assert_allclose(logits(network)[:, 1], linear(X).numpy()[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    "after",
    [layers.Reshape((4,)), layers.Rescaling(1.0), layers.Lambda(lambda x: x * 1.0)],
    ids=["reshape", "rescaling", "lambda"],
)
def test_logits_behind_an_inner_softmax_are_its_logarithm(after):
    model, linear = with_head(layers.Softmax(), after)
    network = resolved(model)
    assert network.saved_kind == "probabilities"
    assert network.logits_from == "log of the output, clipped at 1e-07"
    np.testing.assert_allclose(softmax(logits(network)), model(X), atol=1e-5)
    np.testing.assert_array_equal(logits(network).argmax(-1), linear(X).numpy().argmax(-1))


def test_the_logarithm_of_a_zero_is_finite():
    model, _ = with_head(layers.Rescaling(1000.0), layers.Softmax(), layers.Reshape((4,)))
    probabilities = model(X).numpy()
    assert (probabilities == 0).any()
    np.testing.assert_allclose(logits(resolved(model)).min(), np.log(1e-7), rtol=1e-6)


def test_an_identity_after_a_softmax_changes_nothing():
    model, _ = with_head(layers.Softmax(), layers.Identity())
    np.testing.assert_allclose(softmax(logits(resolved(model))), model(X), atol=1e-5)


def test_dropout_after_a_softmax_does_not_hide_it():
    model, linear = with_head(layers.Softmax(), layers.Dropout(0.0))
    network = resolved(model)
    np.testing.assert_allclose(softmax(logits(network)), model(X), atol=1e-5)
    np.testing.assert_array_equal(logits(network).argmax(-1), linear(X).numpy().argmax(-1))


def test_a_softmax_layer_used_twice_is_not_skipped():
    inputs = keras.Input((6,))
    same = layers.Activation("softmax", name="same")
    gate = same(layers.Dense(6, name="attention")(inputs))
    model = keras.Model(inputs, same(layers.Dense(4, name="linear")(layers.Multiply()([inputs, gate]))))
    network = resolved(model)
    np.testing.assert_allclose(softmax(logits(network)), model(X), atol=1e-5)


def test_a_softmax_over_another_axis_is_not_taken_for_probabilities():
    inputs = keras.Input((6,))
    x = layers.Reshape((2, 3))(inputs)
    model = keras.Model(inputs, layers.Softmax(axis=1)(x))
    network = KerasNetwork(model, name="given")
    assert network.saved_kind == "logits"
