"""A network that rounds as its file does: the file agrees with it, and training moves its ranges."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from random_graphs import randomize

from kdcli.errors import ModelError
from kdcli.exports.litert import Litert
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import make_served_model
from kdcli.models.preprocessing import Preprocessing
from kdcli.quantization.network import quantize_network, restore_ranges
from kdcli.quantization.served_model import round_served_model
from kdcli.quantization.weights import round_kernel
from kdcli.zoo.cnn import Cnn
from kdcli.zoo.mobile import Mobile
from kdcli.zoo.resnet import Resnet

SHAPE = (16, 16, 3)
ZOO = {"cnn": Cnn(width=4), "resnet": Resnet(depth=8, width=4), "mobile": Mobile(width=4)}
IMAGES = np.random.default_rng(0).integers(0, 256, (100, *SHAPE), dtype=np.uint8)


def make_network(model, scale="signed"):
    preprocessing = Preprocessing(SHAPE, "uint8", SHAPE, "float32", scale)
    return KerasNetwork(model, name="student").with_preprocessing({"image": preprocessing})


def make_quantized(model, scale="signed"):
    network = make_network(model, scale)
    return quantize_network(network, lambda: iter([network.make_inputs({"image": IMAGES})]))


def run_litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], images)
    interpreter.invoke()
    floats = [one["name"] for one in interpreter.get_tensor_details() if one["dtype"] == np.float32]
    return interpreter.get_tensor(given["index"]), floats


@pytest.mark.parametrize("scale", ["unit", "signed", "imagenet", "caffe"])
@pytest.mark.parametrize("name", ["cnn", "resnet", "mobile"])
def test_the_file_computes_what_the_network_computes(name, scale, tmp_path):
    if scale in ("imagenet", "caffe") and name != "cnn":
        pytest.skip("the scale does not depend on the architecture")
    model = ZOO[name].build(SHAPE, 5)
    randomize(model)
    quantized = make_quantized(model, scale)
    serving = make_served_model(quantized, include_preprocessing=True, floats=True)
    Litert(quantize="int8").write(round_served_model(serving, quantized), tmp_path / "file.tflite")
    outputs, floats = run_litert(tmp_path / "file.tflite", IMAGES)
    expected = np.asarray(quantized.compute_saved_output({"image": IMAGES}))
    low, high = quantized.ranges.to_numpy()[quantized.placement.outputs["logits"]]
    steps = np.abs(outputs - expected) / ((high - low) / 255)
    assert np.mean(steps < 1.01) > 0.99, steps.max()
    # Only the output is a float.
    assert len(floats) == 1, floats


def images(build):
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(build(x))
    return keras.Model(inputs, keras.layers.Dense(5, name="logits")(x))


def multiply(x):
    return keras.layers.ReLU()(keras.layers.Multiply()([x, keras.layers.Conv2D(6, 1)(x)]))


def constrain(x):
    x = keras.layers.Conv2D(6, 3, kernel_constraint=keras.constraints.MaxNorm(0.1))(x)
    return keras.layers.BatchNormalization()(x)


OTHERS = {
    "dilated": lambda x: keras.layers.Conv2D(6, 3, dilation_rate=2, activation="relu")(x),
    "dense on images": lambda x: keras.layers.Dense(6, activation="relu")(x),
    "multiply": multiply,
    "silu": lambda x: keras.layers.Conv2D(6, 3, activation="silu")(x),
    "hard silu": lambda x: keras.layers.Conv2D(6, 3, activation="hard_silu")(x),
    "slice": lambda x: x[..., :4],
    "constrained": constrain,
    "transposed": lambda x: keras.layers.Conv2DTranspose(6, 3, strides=2, activation="relu")(x),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_are_computed_in_8_bits_as_in_the_network(name, tmp_path):
    model = images(OTHERS[name])
    randomize(model)
    quantized = make_quantized(model, "unit")
    batch = 1 if quantized.converts_single else None
    serving = make_served_model(quantized, include_preprocessing=True, floats=True, batch=batch)
    Litert(quantize="int8").write(round_served_model(serving, quantized), tmp_path / "file.tflite")
    parts = [IMAGES[at : at + 1] for at in range(20)] if batch else [IMAGES]
    found = [run_litert(tmp_path / "file.tflite", part) for part in parts]
    outputs, floats = np.concatenate([one for one, _ in found]), found[0][1]
    assert len(floats) == 1, floats
    expected = np.asarray(quantized.compute_saved_output({"image": IMAGES[: len(outputs)]}))
    low, high = quantized.ranges.to_numpy()[quantized.placement.outputs["logits"]]
    steps = np.abs(outputs - expected) / ((high - low) / 255)
    assert np.mean(steps < 1.01) > 0.99, steps.max()


def test_whole_numbers_as_input_are_refused():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Flatten()(keras.layers.Embedding(1000, 4)(inputs))
    network = KerasNetwork(keras.Model(inputs, keras.layers.Dense(2)(x)), name="words")
    with pytest.raises(ModelError, match="takes int32, which 8 bits do not hold"):
        quantize_network(network, lambda: iter([]))


def test_a_kernel_is_rounded_for_each_channel_as_numpy_does():
    layer = keras.layers.Conv2D(3, 2)
    layer.build((None, 4, 4, 2))
    layer.kernel.assign(np.random.default_rng(0).normal(size=layer.kernel.shape) * [1, 10, 0.1])
    kernel = layer.kernel.numpy()
    scale = np.abs(kernel).max((0, 1, 2)) / 127
    np.testing.assert_allclose(round_kernel(layer, layer.kernel)[0], np.round(kernel / scale) * scale, rtol=1e-5)


def test_a_depthwise_kernel_is_rounded_for_each_input_and_multiplier():
    layer = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)
    layer.build((None, 4, 4, 3))
    layer.kernel.assign(np.random.default_rng(0).normal(size=layer.kernel.shape))
    kernel = layer.kernel.numpy()
    scale = np.abs(kernel).max((0, 1)) / 127
    np.testing.assert_allclose(round_kernel(layer, layer.kernel)[0], np.round(kernel / scale) * scale, rtol=1e-5)


def test_gradients_reach_kernels_and_ranges():
    model = ZOO["cnn"].build(SHAPE, 5)
    randomize(model)
    quantized = make_quantized(model)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(quantized.compute({"image": IMAGES[:8]}, training=True).logits ** 2)
    variables = [one.value for one in quantized.trainable_variables]
    gradients = tape.gradient(loss, variables)
    assert all(one is not None and np.isfinite(one).all() for one in gradients)
    assert np.abs(gradients[-1]).max() > 0
    assert len(quantized.trainable_variables) == len(quantized.model.trainable_variables) + 2


def test_written_ranges_give_the_same_outputs(tmp_path):
    model = ZOO["mobile"].build(SHAPE, 5)
    randomize(model)
    quantized = make_quantized(model)
    quantized.model.save(tmp_path / "student.keras")
    plain = make_network(keras.saving.load_model(tmp_path / "student.keras"))
    restored = restore_ranges(plain, quantized.describe_ranges())
    raw = {"image": IMAGES[:8]}
    np.testing.assert_array_equal(restored.compute(raw).logits, quantized.compute(raw).logits)
    assert not np.array_equal(plain.compute(raw).logits, quantized.compute(raw).logits)


def test_ranges_of_another_model_are_refused():
    models = [ZOO[name].build(SHAPE, 5) for name in ("cnn", "mobile")]
    document = make_quantized(models[0]).describe_ranges()
    with pytest.raises(ModelError, match="belongs to another model"):
        restore_ranges(make_network(models[1]), document)


def test_training_rounds_to_the_same_values():
    model = ZOO["resnet"].build(SHAPE, 5)
    randomize(model)
    quantized = make_quantized(model)
    raw = {"image": IMAGES}
    trained, used = (quantized.compute(raw, training=training).logits for training in (True, False))
    np.testing.assert_allclose(trained, used, atol=1e-5)


def test_a_model_without_any_8_bit_layer_is_refused():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, keras.layers.LayerNormalization(name="normalization")(inputs))
    with pytest.raises(ModelError, match="LiteRT computes none of its layers in 8 bits: normalization"):
        make_quantized(model)
