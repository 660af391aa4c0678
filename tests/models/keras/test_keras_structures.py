"""Keras models with several inputs and outputs in any structure, and with a fixed batch size."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError, UsageError
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import AmbiguousOutput
from kdcli.models.prediction import LOGITS, Predictor
from kdcli.models.preprocessing import Preprocessing

layers = keras.layers
RANDOM = np.random.default_rng(0)


def ready(model, output=None):
    """A network without preprocessing."""
    network = KerasNetwork(model, name="given", output=output)
    unchanged = {
        spec.name: Preprocessing(spec.shape, spec.dtype, spec.shape, spec.dtype, "raw") for spec in network.inputs
    }
    return network.with_preprocessing(unchanged)


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras", compile=False)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def make_inputs(network, count=9):
    return {
        spec.name: RANDOM.integers(0, 9, (count, *spec.shape)).astype(spec.dtype)
        if "int" in spec.dtype
        else RANDOM.standard_normal((count, *spec.shape)).astype(spec.dtype)
        for spec in network.inputs
    }


def predict(network, raw, taps=()):
    count = len(next(iter(raw.values())))
    return Predictor(network, taps=taps)(lambda at: {name: array[at] for name, array in raw.items()}, count)


def make(structure):
    """Two inputs, one of them token ids; two outputs, a softmax and a value."""
    keras.utils.set_random_seed(0)
    left, tokens = keras.Input((4,), name="left"), keras.Input((6,), dtype="int32", name="tokens")
    meant = layers.GlobalAveragePooling1D()(layers.Embedding(10, 5)(tokens))
    joined = layers.Concatenate()([left, meant])
    label = layers.Dense(3, activation="softmax", name="label")(joined)
    size = layers.Dense(1, name="size")(joined)
    inputs, outputs = structure(left, tokens, label, size)
    return keras.Model(inputs, outputs)


STRUCTURES = {
    "lists": lambda a, b, y, z: ([a, b], [y, z]),
    "tuples": lambda a, b, y, z: ((a, b), (y, z)),
    "keys": lambda a, b, y, z: ({"left": a, "tokens": b}, {"label": y, "size": z}),
    "other-order": lambda a, b, y, z: ({"tokens": b, "left": a}, {"size": z, "label": y}),
    "nested": lambda a, b, y, z: ([a, {"tokens": b}], {"label": y, "more": {"size": [z]}}),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_inputs_and_outputs_have_names_in_any_structure(tmp_path, name):
    model = make(STRUCTURES[name])
    reference = make(STRUCTURES["lists"])
    again = reloaded(model, tmp_path)
    for one in (model, again):
        network = ready(one, "label")
        assert {spec.name: spec.dtype for spec in network.inputs} == {"left": "float32", "tokens": "int32"}
        raw = make_inputs(network)
        label, size = reference([raw["left"], raw["tokens"]])
        np.testing.assert_allclose(network.compute_saved_output(raw), label, atol=1e-6)
        found = predict(network, raw, taps=["size"])
        assert network.logits_from == "before the softmax of label"
        np.testing.assert_allclose(softmax(found[LOGITS]), label, atol=1e-6)
        np.testing.assert_allclose(found["size"], size, atol=1e-6)
        other = ready(one, "size")
        assert (other.output_name, other.outputs, other.saved_kind) == ("size", 1, "logits")
        np.testing.assert_allclose(predict(other, raw)[LOGITS], size, atol=1e-6)


def test_several_outputs_without_a_choice_are_listed():
    model = make(STRUCTURES["lists"])
    with pytest.raises(AmbiguousOutput, match="given has 2 outputs: label, size") as caught:
        KerasNetwork(model, name="given")
    assert (caught.value.exit_code, caught.value.hint) == (2, "--output label chooses one")
    with pytest.raises(
        UsageError, match=r"given has no output 'sizes'; did you mean 'size'\? outputs: label, size"
    ):
        KerasNetwork(model, name="given", output="sizes")


def test_outputs_of_one_layer_are_distinguished_by_position():
    inputs, others = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = layers.Dense(3, activation="softmax", name="shared")
    model = keras.Model([inputs, others], [shared(inputs), shared(others)])
    network = ready(model, "1").with_output_kinds("probabilities", output_kind="logits")
    raw = make_inputs(network)
    assert list(network.taps) == ["shared:0", "shared:1"]
    # The softmax of a layer that is used twice cannot be skipped: the logarithm is taken.
    assert network.logits_from.startswith("log of the output")
    np.testing.assert_allclose(softmax(predict(network, raw)[LOGITS]), shared(raw["b"]), atol=1e-5)


def test_a_softmax_that_another_output_depends_on_stays():
    inputs = keras.Input((4,), name="x")
    label = layers.Dense(3, activation="softmax", name="label")(inputs)
    model = keras.Model(inputs, {"label": label, "more": layers.Dense(2, name="more")(label)})
    network = ready(model, "label").with_output_kinds("probabilities", output_kind="logits")
    raw = make_inputs(network)
    found = predict(network, raw, taps=["more"])
    np.testing.assert_allclose(found["more"], model(raw["x"])["more"], atol=1e-6)
    assert network.logits_from.startswith("log of the output")


@keras.saving.register_keras_serializable("tests_structures")
class Both(keras.Model):
    """Subclassed, with a dictionary in and out."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(3, name="dense")

    def call(self, inputs):
        return {"answer": self.dense(inputs["left"]), "passed": inputs["right"]}


def test_a_subclassed_model_may_take_and_return_dictionaries(tmp_path):
    model = Both()
    model({"right": np.zeros((1, 2), np.float32), "left": np.zeros((1, 4), np.float32)})
    network = ready(reloaded(model, tmp_path), "answer")
    raw = make_inputs(network)
    assert {spec.name: spec.shape for spec in network.inputs} == {"left": (4,), "right": (2,)}
    np.testing.assert_allclose(network.compute_saved_output(raw), model(raw)["answer"], atol=1e-6)


FIXED = {
    "plain": (None, lambda x: layers.Flatten()(x)),
    "reshaped": (4, lambda x: keras.ops.reshape(x, (4, 15))),
    "added": (4, lambda x: layers.Flatten()(x + np.ones((4, 1, 1), np.float32))),
    "stateful": (4, lambda x: layers.LSTM(3, stateful=True)(x)),
    "both-ways": (4, lambda x: layers.Bidirectional(layers.GRU(3, stateful=True))(x)),
}


@pytest.mark.parametrize("count", [1, 4, 11])
@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_batch_size_accepts_any_number_of_examples(name, count):
    keras.utils.set_random_seed(0)
    batch, inner = FIXED[name]
    inputs = keras.Input((5, 3), batch_size=4, name="x")
    model = keras.Model(inputs, layers.Dense(2, activation="softmax", name="last")(inner(inputs)))
    network = ready(model)
    assert network.batch == batch
    assert network.taps["last"] == (2,)
    raw = make_inputs(network, count)
    expected = []
    for start in range(0, count, 4):
        part = raw["x"][start : start + 4]
        for layer in network.layers:
            if getattr(layer, "stateful", False):
                layer.reset_state()
        filled = np.concatenate([part, np.repeat(part[-1:], 4 - len(part), 0)])
        expected.append(model(filled).numpy()[: len(part)])
    expected = np.concatenate(expected)
    np.testing.assert_allclose(network.compute_saved_output(raw), expected, atol=1e-6)
    found = predict(network, raw, taps=["last"])
    np.testing.assert_allclose(softmax(found[LOGITS]), expected, atol=1e-6)
    # The tap of the last layer is without its softmax, as for every other batch size.
    np.testing.assert_allclose(found["last"], found[LOGITS], atol=1e-6)
    # A second call computes the same.
    np.testing.assert_array_equal(predict(network, raw)[LOGITS], found[LOGITS])


def test_a_fixed_batch_size_cannot_be_trained():
    inputs = keras.Input((5, 3), batch_size=4, name="x")
    network = ready(keras.Model(inputs, keras.ops.reshape(inputs, (4, 15))))
    with pytest.raises(ModelError, match="given: accepts only batches of 4, so it cannot be trained"):
        network.compute(make_inputs(network, 4), training=True)
