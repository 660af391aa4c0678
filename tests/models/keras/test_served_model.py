"""The served model: preprocessing in built-in layers computes the same as `Preprocessing`."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import make_served_model
from kdcli.models.preprocessing import SCALES, make_preprocessing
from kdcli.recipe.model_sections import InputSection

# Range of the preprocessed images, to which differences are relative.
RANGE = {"raw": 255.0, "caffe": 255.0}


def passing(shape, dtype="float32") -> keras.Model:
    """A model that returns its input."""
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, keras.layers.Reshape(shape)(inputs))


def network_for(shape, raw_shape, *, raw_dtype="uint8", dtype="float32", scale="unit", fit="stretch"):
    network = KerasNetwork(passing(shape, dtype), name="m")
    preprocessing = make_preprocessing(
        InputSection(scale=scale, fit=fit),
        raw_shape=raw_shape,
        raw_dtype=raw_dtype,
        shape=shape,
        dtype=dtype,
        name="m",
    )
    return network.with_preprocessing({"x": preprocessing}), preprocessing


def images(shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)


@pytest.mark.parametrize("raw_shape", [(16, 12, 3), (10, 20, 3), (40, 15, 3)], ids=["same", "wide", "tall"])
@pytest.mark.parametrize(("scale", "fit"), [*itertools.product(SCALES, ("stretch", "crop", "pad"))])
def test_built_in_layers_compute_the_preprocessing(scale, fit, raw_shape):
    network, preprocessing = network_for((16, 12, 3), raw_shape, scale=scale, fit=fit)
    serving, raw = make_served_model(network, include_preprocessing=True), images(raw_shape)
    assert (serving.shape, serving.dtype) == (raw_shape, "uint8")
    assert {type(layer).__module__.split(".")[0] for layer in serving.model.layers} == {"keras"}
    difference = np.abs(serving.model(raw).numpy() - keras.ops.convert_to_numpy(preprocessing(raw))).max()
    assert difference <= 1.2e-6 * RANGE.get(scale, 1.0)


@pytest.mark.parametrize(
    ("shape", "raw_shape"), [((8, 8, 1), (8, 8)), ((8, 8), (8, 8, 1)), ((4, 4), (8, 6)), ((4, 4, 1), (8, 6))]
)
def test_a_channel_axis_is_added_or_removed(shape, raw_shape):
    network, preprocessing = network_for(shape, raw_shape)
    raw = images(raw_shape)
    served = make_served_model(network, include_preprocessing=True).model(raw).numpy()
    assert served.shape == (3, *shape)
    np.testing.assert_allclose(served, keras.ops.convert_to_numpy(preprocessing(raw)), atol=1e-6)


@pytest.mark.parametrize(
    ("raw_dtype", "dtype"), [("float64", "float32"), ("int64", "int32"), ("int64", "float32")]
)
def test_raw_values_other_than_bytes_have_the_networks_type(raw_dtype, dtype):
    network, _ = network_for((5,), (5,), raw_dtype=raw_dtype, dtype=dtype)
    serving = make_served_model(network, include_preprocessing=True)
    raw = (np.arange(15).reshape(3, 5) - 4).astype(raw_dtype)
    assert serving.dtype == dtype and serving.value_range is None
    np.testing.assert_array_equal(serving.model(serving.convert_examples({"x": raw})).numpy(), raw.astype(dtype))


def test_without_preprocessing_the_input_is_that_of_the_network():
    network, preprocessing = network_for((8, 8, 3), (6, 6, 3), scale="signed")
    serving, raw = make_served_model(network, include_preprocessing=False, batch=2), images((6, 6, 3))
    assert (serving.shape, serving.dtype, serving.value_range) == ((8, 8, 3), "float32", (-1.0, 1.0))
    assert serving.signature.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(
        serving.convert_examples({"x": raw}), keras.ops.convert_to_numpy(preprocessing(raw))
    )


def test_representative_bytes_include_0_and_255():
    network, _ = network_for((8, 8, 3), (8, 8, 3))
    dull = np.full((5, 8, 8, 3), 7, np.uint8)
    serving = make_served_model(network, include_preprocessing=True, floats=True, batch=2).shown({"x": dull})
    assert serving.dtype == "float32"
    assert [one.shape for one in serving.representative] == [(2, 8, 8, 3)] * 5
    values = np.stack(serving.representative)
    assert (values.min(), values.max()) == (0, 255)
    assert (values != 7).sum() == 2 * 2
    assert (dull == 7).all()


def test_several_inputs_are_refused():
    inputs = [keras.Input((2,), name="a"), keras.Input((2,), name="b")]
    network = KerasNetwork(keras.Model(inputs, keras.layers.Add()(inputs)), name="both")
    _, preprocessing = network_for((2,), (2,), raw_dtype="float32")
    with pytest.raises(ModelError, match="both: has 2 inputs; kd export writes models with one"):
        make_served_model(
            network.with_preprocessing({"a": preprocessing, "b": preprocessing}), include_preprocessing=True
        )


def test_the_output_includes_its_activation():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, {"y": keras.layers.Dense(3, activation="softmax")(inputs)})
    _, preprocessing = network_for((4,), (4,), raw_dtype="float32")
    network = KerasNetwork(model, name="m").with_preprocessing({"x": preprocessing})
    outputs = make_served_model(network, include_preprocessing=True).model(np.ones((2, 4), np.float32)).numpy()
    np.testing.assert_allclose(outputs.sum(-1), 1, atol=1e-6)
