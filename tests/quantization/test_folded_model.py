"""The folded model is the same function as the model, and every layer of it is one 8-bit operation."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from random_graphs import randomize

from kdcli.errors import ModelError
from kdcli.quantization.folded_model import fold_model
from kdcli.zoo.cnn import Cnn
from kdcli.zoo.mobile import Mobile
from kdcli.zoo.resnet import Resnet

layers = keras.layers


def squeeze_and_excite():
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling([2.0, 3.0, 4.0], offset=-1.0)(inputs)
    x = layers.SeparableConv2D(8, 3, padding="same", activation="swish", depth_multiplier=2)(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="silu")(gate)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.BatchNormalization()(x)
    x = layers.Activation("hard_silu")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))


def nested_twice():
    block = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
    )
    inputs = keras.Input((8, 8, 4))
    x = layers.Concatenate()([block(inputs), block(inputs * 2.0)])
    x = layers.Conv2DTranspose(5, 2, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization(scale=False)(x)
    return keras.Model(inputs, layers.Add()([x, layers.Dropout(0.5)(x), x]))


def table():
    inputs = keras.Input((6,))
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (50, 6)))
    x = layers.Dense(7, use_bias=False)(normalization(inputs))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(2)(layers.BatchNormalization(center=False)(x)))


def nested_output():
    inner_inputs = {"zz": keras.Input((4,), name="zz"), "aa": keras.Input((4,), name="aa")}
    inner = keras.Model(inner_inputs, layers.Subtract()([inner_inputs["zz"], inner_inputs["aa"]]))
    inputs = keras.Input((4,))
    return keras.Model(inputs, inner({"zz": layers.Dense(4)(inputs), "aa": inputs}))


@keras.saving.register_keras_serializable("test")
def swish(x):
    return x * keras.ops.sigmoid(1.702 * x)


def own_activation():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(3, activation=swish)(inputs))


def two_widths():
    scaled = layers.Rescaling(2.0, 1.0)
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, layers.Concatenate()([scaled(inputs), scaled(layers.Conv2D(4, 1)(inputs))]))


MODELS = {
    "nested_output": nested_output,
    "own_activation": own_activation,
    "two_widths": two_widths,
    "cnn": lambda: Cnn(width=4).build((16, 16, 3), 5),
    "resnet": lambda: Resnet(depth=8, width=4).build((16, 16, 3), 5),
    "mobile": lambda: Mobile(width=4).build((16, 16, 3), 5),
    "squeeze_and_excite": squeeze_and_excite,
    "nested_twice": nested_twice,
    "table": table,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_folded_model_is_the_same_function(name):
    model = MODELS[name]()
    randomize(model)
    before = [weight.numpy().copy() for weight in model.weights]
    folded = fold_model(model)
    batch = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    expected = model(batch, training=False)
    np.testing.assert_allclose(folded(batch, training=False), expected, rtol=1e-4, atol=1e-4)
    # The model itself is not changed.
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    kinds = {type(layer).__name__ for layer in folded.layers}
    assert not kinds & {"BatchNormalization", "SeparableConv2D", "Normalization", "Functional", "Sequential"}


def test_a_batch_norm_whose_input_is_used_twice_is_not_folded_into_the_weights():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="convolution")(inputs)
    model = keras.Model(inputs, layers.Add()([x, layers.BatchNormalization(name="normalization")(x)]))
    randomize(model)
    folded = fold_model(model)
    np.testing.assert_array_equal(folded.get_layer("convolution").kernel, model.get_layer("convolution").kernel)
    assert isinstance(folded.get_layer("normalization"), layers.DepthwiseConv2D)
    batch = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(folded(batch), model(batch, training=False), rtol=1e-5, atol=1e-5)


def test_constants_are_not_trained_and_frozen_layers_stay_frozen():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="hard_silu")(layers.Rescaling(2.0, 1.0)(inputs))
    frozen = layers.BatchNormalization(trainable=False)
    model = keras.Model(inputs, layers.Conv2D(2, 1)(frozen(layers.ReLU()(x))))
    assert len(fold_model(model).trainable_weights) == len(model.trainable_weights) == 4


def test_shared_layers_stay_shared():
    inputs = keras.Input((5,)), keras.Input((5,))
    shared = layers.Dense(3, activation="swish", name="shared")
    model = keras.Model(inputs, layers.Add()([shared(inputs[0]), shared(inputs[1])]))
    folded = fold_model(model)
    assert folded.count_params() == model.count_params()
    batch = [np.random.default_rng(one).normal(size=(2, 5)).astype(np.float32) for one in (0, 1)]
    np.testing.assert_allclose(folded(batch), model(batch), rtol=1e-5, atol=1e-5)


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(ModelError, match="the graph of a subclassed model"):
        fold_model(model)
