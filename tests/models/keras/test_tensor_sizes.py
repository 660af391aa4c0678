"""Models with huge inner tensors are refused before they compute anything."""

from __future__ import annotations

import keras
import pytest
from keras import Input, Model, Sequential, layers, ops

from kdcli.errors import ModelError
from kdcli.models.keras.size_limits import check_tensor_sizes


def upsampling(times: int):
    steps = [layers.UpSampling2D(32, name=f"up_{number}") for number in range(times)]
    return Sequential([Input((8, 8, 1)), *steps])


def test_a_layer_with_a_huge_output_is_named():
    check_tensor_sizes(upsampling(2), "m.keras")
    with pytest.raises(ModelError, match=r"^m.keras: refused, size: the output of the layer 'up_2' has shape \?×"):
        check_tensor_sizes(upsampling(3), "m.keras")


def test_a_huge_output_in_a_nested_model_is_found():
    x = Input((8, 8, 1))
    model = Model(x, layers.GlobalAveragePooling2D()(upsampling(3)(x)))
    with pytest.raises(ModelError, match="262144×262144"):
        check_tensor_sizes(model, "m.keras")


def test_a_huge_output_of_an_operator_is_found():
    x = Input((1000,))
    y = ops.matmul(ops.expand_dims(x, 2), ops.expand_dims(x, 1))
    check_tensor_sizes(Model(x, y), "m.keras")
    with pytest.raises(ModelError, match="1000×1000000"):
        check_tensor_sizes(Model(x, ops.sum(ops.tile(y, [1, 1, 1000]), axis=(1, 2))), "m.keras")


def test_any_size_and_models_without_a_graph_pass():
    class Subclassed(Model):
        def __init__(self):
            super().__init__()
            self.inside = layers.Dense(2)

        def call(self, inputs):
            return self.inside(inputs)

    model = Subclassed()
    model(keras.ops.ones((1, 3)))
    check_tensor_sizes(model, "m.keras")
    x, same = Input((None, None, 3)), layers.Conv2D(3, 3)
    check_tensor_sizes(Model(x, {"a": same(x), "b": same(same(x))}), "m.keras")
