"""To which formats a model can be exported, before anything is trained."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.jobs.export_formats import ONE_AT_A_TIME, YES, exportable_formats
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import ServedModel
from kdcli.models.preprocessing import Preprocessing


def network_of(layer, shape=(6, 4)):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
    return KerasNetwork(model, name="m").with_preprocessing(
        {"x": Preprocessing(shape, "float32", shape, "float32")}
    )


def test_usual_operations_are_not_converted_for_it(monkeypatch):
    monkeypatch.setattr(ServedModel, "constant", property(lambda self: pytest.fail("it was converted")))
    assert set(exportable_formats(network_of(keras.layers.Conv1D(2, 3))).values()) == {YES}


def test_recurrent_layers_are_for_one_example_at_a_time_and_the_model_stays():
    network = network_of(keras.layers.LSTM(3))
    before = [weight.numpy() for weight in network.model.weights]
    found = exportable_formats(network)
    assert (found["keras"], found["saved-model"], found["litert"]) == (YES, YES, ONE_AT_A_TIME)
    for weight, kept in zip(network.model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), kept)


def test_an_operation_that_litert_lacks_is_named():
    found = exportable_formats(network_of(lambda x: keras.ops.fft((x, x))[0]))
    assert found["litert"] == "'tf.Complex' op is neither a custom op nor a flex op"
    assert found["keras"] == YES
