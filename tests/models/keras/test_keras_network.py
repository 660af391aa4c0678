"""Keras models as networks: their taps, and that tracing does not change them."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.errors import ModelError
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.precision import compute_in
from kdcli.models.keras.taps import find_layers, record_calls
from kdcli.models.preprocessing import Preprocessing

X = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
layers = keras.layers


@keras.saving.register_keras_serializable("tests")
class Block(keras.Model):
    """A subclassed model with layers in a list."""

    def __init__(self, width=4, **options):
        super().__init__(**options)
        self.width = width
        self.body = [layers.Conv2D(width, 3, name="first"), layers.ReLU(name="second")]
        self.head = layers.Dense(3, activation="softmax", name="head")

    def call(self, x, training=False):
        for layer in self.body:
            x = layer(x)
        return self.head(keras.ops.mean(x, axis=(1, 2)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def functional(activation="softmax"):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, activation=activation, name="out")(x), name="plain")


def sequential(activation="softmax"):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(3, activation=activation, name="out"),
        ]
    )


def nested(activation="softmax"):
    inside = keras.Input((8, 8, 1))
    x = layers.ReLU(name="act")(layers.Conv2D(4, 3, name="conv")(inside))
    block = keras.Model(inside, layers.MaxPooling2D(name="shrink")(x), name="block")
    head = keras.Sequential([layers.Flatten(name="flat"), layers.Dense(3, activation, name="out")], name="head")
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, head(block(inputs)))


def subclassed():
    model = Block(name="subclassed")
    model(X)
    return model


def shared():
    inputs = keras.Input((8, 8, 1))
    same = layers.Conv2D(1, 3, padding="same", activation="tanh", name="same")
    flat = layers.Flatten(name="flat")(same(same(inputs)))
    return keras.Model(inputs, layers.Dense(3, name="out")(flat))


MODELS = {"functional": functional, "sequential": sequential, "nested": nested, "subclassed": subclassed}
TAPS = {
    "functional": {"conv": (6, 6, 4), "pool": (4,), "out": (3,)},
    "sequential": {"conv": (6, 6, 4), "norm": (6, 6, 4), "flat": (144,), "out": (3,)},
    "nested": {
        "block/conv": (6, 6, 4),
        "block/act": (6, 6, 4),
        "block/shrink": (3, 3, 4),
        "block": (3, 3, 4),
        "head/flat": (36,),
        "head/out": (3,),
        "head": (3,),
    },
    "subclassed": {"first": (6, 6, 4), "second": (6, 6, 4), "head": (3,)},
}


@pytest.fixture(params=list(MODELS))
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    keras.utils.set_random_seed(0)
    return MODELS[kind]()


def network(model):
    return KerasNetwork(model, name="given").with_preprocessing(
        {"x": Preprocessing((8, 8, 1), "float32", (8, 8, 1), "float32")}
    )


def test_taps_are_named_by_path_with_their_shapes(kind, model):
    assert dict(network(model).taps) == TAPS[kind]


def test_a_layer_called_twice_has_two_taps():
    found = network(shared())
    assert found.taps == {"same:0": (8, 8, 1), "same:1": (8, 8, 1), "flat": (64,), "out": (3,)}
    first, second = found.compute({"x": X}, taps=["same:0", "same:1"]).features.values()
    np.testing.assert_allclose(found.model.get_layer("same")(first), second, atol=1e-6)


@pytest.mark.parametrize("build", [functional, sequential])
def test_a_tap_equals_the_output_of_its_layer(build):
    model = build()
    found = network(model)
    names = [name for name in found.taps if name != "out"]
    outputs = found.compute({"x": X}, taps=names)
    plain = keras.Model(model.inputs, [model.get_layer(name).output for name in names])([X])
    for name, expected in zip(names, plain, strict=True):
        np.testing.assert_allclose(outputs.features[name], expected, atol=1e-6)


def test_gradients_flow_through_every_tap(model):
    found = network(model)
    for name in found.taps:
        with tf.GradientTape() as tape:
            feature = found.compute({"x": X}, taps=[name], training=True).features[name]
            total = tf.reduce_sum(feature * tf.range(1.0, 1 + feature.shape[-1]))
        gradients = tape.gradient(total, [v.value for v in found.trainable_variables])
        assert tf.linalg.global_norm([g for g in gradients if g is not None]) > 0, name


def test_outputs_are_equal_when_compiled(model):
    found = network(model)
    eager = found.compute({"x": X}).logits
    compiled = tf.function(lambda x: found.compute({"x": x}).logits, autograph=False)(X)
    np.testing.assert_allclose(compiled, eager, atol=1e-5)


def saved_config(model, path):
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    return config


def test_recording_does_not_change_the_model(model, tmp_path):
    before = saved_config(model, tmp_path / "before.keras")
    state = {path: set(vars(layer)) for path, layer in find_layers(model).items()}
    activations = [getattr(layer, "activation", None) for layer in find_layers(model).values()]
    output = model(X).numpy()
    found = network(model)
    found.compute({"x": X}, taps=list(found.taps), training=False)
    for path, layer in find_layers(model).items():
        assert "call" not in vars(layer), path
        assert set(vars(layer)) == state[path], path
    assert [getattr(layer, "activation", None) for layer in find_layers(model).values()] == activations
    np.testing.assert_array_equal(model(X).numpy(), output)
    assert saved_config(model, tmp_path / "after.keras") == before


def test_a_model_is_restored_after_a_failure():
    model = functional()
    found = find_layers(model)
    with pytest.raises(RuntimeError, match="inside"), record_calls(found, bare="out"):
        raise RuntimeError("inside")
    assert model.get_layer("out").activation is keras.activations.softmax
    assert not any("call" in vars(layer) for layer in found.values())


def test_taps_of_a_model_for_any_size_are_fixed_by_the_data():
    inputs = keras.Input((None, None, 1))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D(name="pool")(x)))
    found = KerasNetwork(model, name="given")
    assert found.taps["conv"] == (None, None, 4)
    ready = found.with_preprocessing({"x": Preprocessing((8, 6, 1), "uint8", (None, None, 1), "float32")})
    assert ready.taps["conv"] == (6, 4, 4)
    assert found.taps["conv"] == (None, None, 4)


def test_a_model_that_was_never_called_is_refused():
    with pytest.raises(ModelError, match="given: the shape of the model's input is unknown") as caught:
        KerasNetwork(Block(), name="given")
    assert "call the model once" in caught.value.hint


def test_several_inputs_are_arranged_by_name():
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    model = keras.Model([left, right], layers.Subtract(name="difference")([left, right]))
    found = KerasNetwork(model, name="given").with_preprocessing(
        {name: Preprocessing((2,), "float32", (2,), "float32") for name in ("right", "left")}
    )
    raw = {"right": np.full((1, 2), 1.0, np.float32), "left": np.full((1, 2), 5.0, np.float32)}
    assert found.compute(raw).logits.numpy().tolist() == [[4.0, 4.0]]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_affects_features_but_not_weights(model, precision):
    found = network(model)
    policies = [layer.dtype_policy for layer in find_layers(model).values()]
    exact = found.compute({"x": X}).logits.numpy()
    tap = next(iter(found.taps))
    with compute_in(found, precision):
        outputs = found.compute({"x": X}, taps=[tap])
        assert outputs.features[tap].dtype.name == precision.removeprefix("mixed_")
        assert outputs.logits.dtype == tf.float32
        assert {variable.dtype for variable in model.weights} == {"float32"}
    assert [layer.dtype_policy for layer in find_layers(model).values()] == policies
    np.testing.assert_allclose(outputs.logits, exact, atol=0.03)
    assert not np.array_equal(outputs.logits, exact)
    np.testing.assert_array_equal(found.compute({"x": X}).logits, exact)


def test_policies_are_restored_after_a_failure():
    model = functional()
    with pytest.raises(RuntimeError, match="inside"), compute_in(network(model), "mixed_bfloat16"):
        assert model.get_layer("conv").compute_dtype == "bfloat16"
        raise RuntimeError("inside")
    assert model.get_layer("conv").compute_dtype == "float32"


def test_output_kinds_survive_a_change_of_the_input_size():
    inputs = keras.Input((None, None, 1))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(inputs))
    prepared = {"x": Preprocessing(X.shape[1:], "float32", (None, None, 1), "float32")}
    one = KerasNetwork(keras.Model(inputs, layers.Dense(1, "sigmoid")(pooled)), name="one").as_two_classes()
    five = KerasNetwork(keras.Model(inputs, layers.Dense(5)(pooled)), name="five").with_columns([3, 1])
    for network, outputs in ((one, 2), (five, 2)):
        known = network.with_preprocessing(prepared)
        assert (known.outputs, known.taps["conv"]) == (outputs, (6, 6, 4))
        assert known.compute({"x": X}).logits.shape == (len(X), outputs)
    np.testing.assert_allclose(
        five.with_preprocessing(prepared).compute({"x": X}).logits, five.model(X).numpy()[:, [3, 1]], atol=1e-6
    )
