"""Attention scores as taps of a Keras model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing

X = np.random.default_rng(0).normal(size=(3, 6, 8)).astype("float32")
ATTENTION = {
    "MultiHeadAttention": lambda **options: keras.layers.MultiHeadAttention(2, 4, name="attention", **options),
    "GroupQueryAttention": lambda **options: keras.layers.GroupQueryAttention(
        4, 2, 1, name="attention", **options
    ),
}


def model(kind="MultiHeadAttention", *, shown=False, nested=False, **options):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((6, 8), name="x")
    attention = ATTENTION[kind](**options)
    flow = attention(inputs, inputs, return_attention_scores=True)[0] if shown else attention(inputs, inputs)
    if nested:
        block = keras.Model(inputs, flow, name="block")
        inputs = keras.Input((6, 8), name="x")
        flow = block(inputs)
    return keras.Model(inputs, layers.Dense(2, name="out")(layers.GlobalAveragePooling1D()(flow)))


def network_of(made):
    preprocessing = Preprocessing((6, 8), "float32", (6, 8), "float32")
    return KerasNetwork(made, name="given").with_preprocessing({"x": preprocessing})


def compute(made, *taps, training=False):
    network = network_of(made)
    return network, network.compute({"x": tf.constant(X)}, taps=taps, training=training)


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_scores_equal_those_that_the_layer_returns(kind, dropout, shown):
    made = model(kind, dropout=dropout, shown=shown)
    network, outputs = compute(made, "attention/scores")
    expected = made.get_layer("attention")(X, X, return_attention_scores=True)[1]
    scores = outputs.features["attention/scores"].numpy()
    assert scores == pytest.approx(expected.numpy(), abs=1e-6)
    assert scores.sum(axis=-1) == pytest.approx(np.ones(scores.shape[:-1]), abs=1e-5)
    assert network.taps["attention/scores"] == scores.shape[1:]
    assert network.roles.scores == {"attention/scores"}
    assert outputs.logits.numpy() == pytest.approx(made(X).numpy(), abs=1e-5)


def test_scores_inside_a_nested_model():
    _, outputs = compute(model(nested=True), "block/attention/scores")
    assert outputs.features["block/attention/scores"].shape == (3, 2, 6, 6)


def test_names_are_the_same_in_every_process():
    # Keras numbers the softmax inside: `softmax_1`, `softmax_2`.
    taps = [tuple(KerasNetwork(model(dropout=0.1), name="given").taps)[:6] for _ in range(2)]
    assert taps[0] == taps[1]
    assert {"attention/scores", "attention/dropout"} <= set(taps[0])


def test_a_causal_mask_affects_the_scores():
    inputs = keras.Input((6, 8), name="x")
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    made = keras.Model(inputs, attention(inputs, inputs, use_causal_mask=True))
    _, outputs = compute(made, "attention/scores")
    scores = outputs.features["attention/scores"].numpy()
    assert not np.triu(scores[0, 0], 1).any()


def test_scores_are_computed_only_on_request(monkeypatch):
    calls = []
    original = keras.layers.Softmax.call

    def counting(self, *args, **kwargs):
        calls.append(self.name)
        return original(self, *args, **kwargs)

    network = network_of(model())
    monkeypatch.setattr(keras.layers.Softmax, "call", counting)
    network.compute({"x": tf.constant(X)}, taps=("attention",))
    assert calls == []
    network.compute({"x": tf.constant(X)}, taps=("attention", "attention/scores"))
    assert len(calls) == 1


def test_gradients_flow_through_scores():
    made = model()
    network = network_of(made)
    query = made.get_layer("attention").trainable_variables[0]
    with tf.GradientTape() as tape:
        outputs = network.compute({"x": tf.constant(X)}, taps=("attention/scores",), training=True)
        value = tf.reduce_sum(tf.square(outputs.features["attention/scores"]))
    assert np.abs(tape.gradient(value, query.value)).max() > 0
