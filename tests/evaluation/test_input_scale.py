"""Choosing the input scale of a network: by its graph, its loss, its statistics, or by assumption."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

from kdcli.data.named_arrays import splits_from_arrays
from kdcli.evaluation.input_scale import choose_scale, find_scale_mismatch
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.spec import Standardization

layers = keras.layers
RANDOM = np.random.default_rng(0)
CLASSES = np.arange(480) % 3
# Every twelfth label is wrong, so that no network becomes certain.
LABELS = np.where(np.arange(480) % 12 == 5, (CLASSES + 1) % 3, CLASSES)


def images(*, channels=1):
    """Noisy images in which one of three rows is brighter."""
    pixels = RANDOM.integers(0, 120, (480, 6, 6, channels))
    for number, label in enumerate(CLASSES):
        pixels[number, 2 * label : 2 * label + 2] += 60
    return pixels.astype(np.uint8)


PIXELS = images()
MEAN, DEVIATION = float(PIXELS.mean()), float(PIXELS.std())
PREPROCESSED = {
    "unit": lambda x: x / 255.0,
    "signed": lambda x: x / 127.5 - 1.0,
    "raw": lambda x: x.astype(np.float32),
    "data": lambda x: (x - MEAN) / DEVIATION,
}


def split(pixels=PIXELS, labels=LABELS):
    given = {"x": pixels} if labels is None else {"x": pixels, "y": labels}
    return splits_from_arrays(given, name="d").train


def classifier(first=lambda x: x, *, norm=False, bias=True, shape=(6, 6, 1)):
    inputs = keras.Input(shape)
    x = layers.Conv2D(6, 3, use_bias=bias and not norm)(first(inputs))
    x = layers.BatchNormalization(momentum=0.8)(x) if norm else x
    x = layers.Flatten()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(3, use_bias=bias)(x))


def trained(model, given, labels=LABELS, *, epochs=12):
    """Train a model with plain Keras."""
    keras.utils.set_random_seed(0)
    for variable in model.trainable_variables:
        if "kernel" in variable.path:
            variable.assign(keras.initializers.GlorotUniform(seed=1)(variable.shape))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss)
    model.fit(given, labels, epochs=epochs, batch_size=24, verbose=0)
    return model


@functools.cache
def trained_on(scale, *, norm=False):
    """A classifier that plain Keras trained on scaled images."""
    return trained(classifier(norm=norm), PREPROCESSED[scale](PIXELS))


def network(model, *, pixels=PIXELS, output_kind="logits"):
    shape = pixels.shape[1:]
    preparation = Preprocessing(shape, str(pixels.dtype), shape, "float32")
    return (
        KerasNetwork(model, name="m")
        .with_output_kinds(output_kind, output_kind=output_kind)
        .with_preprocessing({"x": preparation})
    )


def choose(model, examples=None, *, task="classification", measured=True, output_kind="logits"):
    return choose_scale(
        network(model, output_kind=output_kind), examples or split(), task=task, measured=measured, seed=0
    )


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("scale", ["unit", "signed", "raw", "data"])
def test_a_trained_network_gets_the_scale_that_it_was_trained_on(scale, norm):
    model = trained_on(scale, norm=norm)
    choice = choose(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ours = Preprocessing((6, 6, 1), "uint8", (6, 6, 1), "float32", choice.scale)(PIXELS)
    reached = float(loss(LABELS, model.predict(keras.ops.convert_to_numpy(ours), verbose=0)))
    own = float(loss(LABELS, model.predict(PREPROCESSED[scale](PIXELS), verbose=0)))
    # The data's own statistics are rounded to four digits.
    assert reached == pytest.approx(own, rel=0.02)
    assert not choice.assumed


@pytest.mark.parametrize("scale", ["unit", "signed", "raw", "data"])
def test_without_labels_the_batch_norm_statistics_decide(scale):
    model = trained_on(scale, norm=True)
    choice = choose(model, split(labels=None))
    assert (choice.scale if isinstance(choice.scale, str) else "data") == scale
    assert not choice.assumed


def test_a_scale_that_only_increases_confidence_does_not_win():
    # Without biases the predictions are the same for every factor, and a larger one lowers the loss.
    easy = PIXELS.copy()
    for number, label in enumerate(CLASSES):
        easy[number, 2 * label : 2 * label + 2] += 70
    model = trained(classifier(bias=False), easy / 255.0, CLASSES)
    same = model.predict(easy / 255.0, verbose=0).argmax(1) == model.predict(easy * 1.0, verbose=0).argmax(1)
    assert same.all()
    assert choose(model, split(easy, CLASSES)).scale == "unit"


def test_scale_is_assumed_if_the_network_does_not_know_the_labels():
    model = trained_on("signed")
    for count in (40, 480):
        choice = choose(model, split(PIXELS[:count], RANDOM.permutation(LABELS[:count])))
        assert (choice.scale, choice.assumed) == ("unit", True)
        assert "better than guessing" in choice.reason


def test_scale_is_assumed_for_a_network_that_predicts_one_class():
    model = classifier()
    kernel = np.zeros((96, 3))
    kernel[:, 1] = 0.1
    # Class 0 under `unit` and class 1 under `raw`, for every image.
    model.layers[1].set_weights([np.ones((3, 3, 1, 6)) / 9, np.zeros(6)])
    model.layers[-1].set_weights([kernel, np.array([90.0, 0, 0])])
    assert choose(model).assumed


def normalization(pixels):
    layer = layers.Normalization(axis=-1)
    layer.adapt(pixels)
    return layer


INSIDE = {
    "rescaling": (lambda x: layers.Rescaling(1 / 255)(x), "raw"),
    "arithmetic": (lambda x: x / 127.5 - 1.0, "raw"),
    "subtract, then divide": (lambda x: (x - 127.5) / 127.5, "raw"),
    "normalization": (normalization(PIXELS.astype(np.float32)), "raw"),
    "nested": (lambda x: keras.Sequential([layers.Rescaling(1 / 127.5, -1)])(x), "raw"),
    "behind augmentation": (lambda x: layers.Rescaling(1 / 255)(layers.RandomRotation(0.1)(x)), "raw"),
    "behind resizing": (lambda x: layers.Rescaling(1 / 255)(layers.Resizing(8, 8)(x)), "raw"),
    "behind cropping": (lambda x: layers.Rescaling(1 / 255)(layers.CenterCrop(4, 4)(x)), "raw"),
    "before padding": (lambda x: layers.ZeroPadding2D(3)(layers.Rescaling(1 / 127.5, -1)(x)), "raw"),
    "behind padding": (lambda x: layers.Rescaling(1 / 127.5, -1)(layers.ZeroPadding2D(3)(x)), "raw"),
    "cast": (lambda x: keras.ops.divide(keras.ops.cast(x, "float32"), 255.0), "raw"),
    "from [0, 1] to [-1, 1]": (lambda x: x * 2 - 1.0, "unit"),
    "normalization of [0, 1]": (normalization(PIXELS / 255.0), "unit"),
    "nothing": (lambda x: x, "unit"),
    "batch norm": (lambda x: layers.BatchNormalization()(x), "unit"),
}


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("measured", [False, True])
def test_scale_of_an_untrained_network_follows_from_its_graph(name, measured):
    first, scale = INSIDE[name]
    choice = choose(classifier(first), measured=measured)
    assert choice.scale == scale
    is_scaled = name not in ("nothing", "batch norm")
    assert ("the network itself maps 0..255 to" in choice.reason) is is_scaled


@pytest.mark.parametrize(
    "module", ["resnet", "mobilenet_v2", "densenet"], ids=["caffe: BGR minus a mean", "tf: [-1, 1]", "torch"]
)
def test_preprocessing_of_the_applications_in_the_graph_is_recognized(module):
    preprocess = getattr(keras.applications, module).preprocess_input
    three = np.repeat(PIXELS, 3, -1)
    shape = three.shape[1:]
    network = KerasNetwork(classifier(preprocess, shape=shape), name="m")
    network = network.with_preprocessing({"x": Preprocessing(shape, "uint8", shape, "float32")})
    choice = choose_scale(network, split(three), task="classification", measured=False, seed=0)
    assert choice.scale == "raw"
    reached = network.with_scale(choice.scale).compute_before_weights({"x": three[:5]})
    np.testing.assert_allclose(reached, preprocess(three[:5].astype(np.float32)), atol=1e-3)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution, self.dense = layers.Conv2D(4, 3), layers.Dense(3)

    def call(self, x):
        return self.dense(keras.ops.mean(self.convolution(x / 255.0), (1, 2)))


def test_scale_of_a_subclassed_model_follows_from_its_graph():
    model = Subclassed()
    model(np.zeros((1, 6, 6, 1), np.float32))
    assert choose(model, measured=False).scale == "raw"


def test_a_network_that_standardizes_each_image_has_no_preferred_scale():
    def first(x):
        mean = keras.ops.mean(x, axis=(1, 2, 3), keepdims=True)
        return (x - mean) / keras.ops.std(x, axis=(1, 2, 3), keepdims=True)

    model = trained(classifier(first), PIXELS)
    assert (choose(model).scale, choose(model).reason) == ("unit", "")


def brightness(x):
    return (x.mean((1, 2, 3)) / 255.0).astype(np.float32)


@pytest.mark.parametrize("task", ["regression", "multilabel", "segmentation"])
def test_other_tasks_are_compared_by_their_task_loss(task):
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    if task == "segmentation":
        labels, x = (PIXELS[..., 0] > 100).astype(np.int64), layers.Conv2D(2, 1)(x)
        loss, output_kind = keras.losses.SparseCategoricalCrossentropy(from_logits=True), "logits"
    elif task == "multilabel":
        labels = np.stack([PIXELS[:, row : row + 2].mean((1, 2, 3)) > 75 for row in (0, 2)], 1).astype(np.int64)
        x, output_kind = layers.Dense(2)(layers.Flatten()(x)), "sigmoid"
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
    else:
        labels, x, loss, output_kind = brightness(PIXELS), layers.Dense(1)(layers.Flatten()(x)), "mse", "values"
    model = keras.Model(inputs, x)
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(PREPROCESSED["signed"](PIXELS), labels, epochs=40, batch_size=24, verbose=0)
    assert choose(model, split(labels=labels), task=task, output_kind=output_kind).scale == "signed"


def test_colour_scales_are_compared_for_three_channels_only():
    pixels = images(channels=3)
    shape = (6, 6, 3)
    model = trained(classifier(shape=shape), keras.applications.imagenet_utils.preprocess_input(pixels * 1.0))
    three = KerasNetwork(model, name="m").with_preprocessing(
        {"x": Preprocessing(shape, "uint8", shape, "float32")}
    )
    choice = choose_scale(three, split(pixels), task="classification", measured=True, seed=0)
    assert choice.scale == "caffe"
    assert {"imagenet", "caffe"} <= set(choice.losses)
    assert not {"imagenet", "caffe"} & set(choose(trained_on("raw")).losses)


def test_labels_may_be_rows_of_probabilities():
    model = trained_on("raw")
    soft = np.eye(3)[LABELS] * 0.9 + 0.1 / 3
    assert choose(model, split(labels=soft)).scale == "raw"


def test_a_network_with_integer_inputs_is_not_scaled():
    inputs = keras.Input((6, 6, 1), dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    model = KerasNetwork(keras.Model(inputs, layers.Dense(3)(x)), name="m")
    model = model.with_preprocessing({"x": Preprocessing((6, 6, 1), "uint8", (6, 6, 1), "uint8")})
    assert choose_scale(model, split(), task="classification", measured=True, seed=0).scale == "raw"


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_images_other_than_uint8_are_not_scaled(dtype):
    given = PIXELS.astype(dtype)
    choice = choose_scale(
        network(classifier(), pixels=given), split(given), task="classification", measured=True, seed=0
    )
    assert (choice.scale, choice.reason) == ("unit", "")


@pytest.mark.parametrize("stored", ["raw", "unit", "signed"])
@pytest.mark.parametrize("expected", ["raw", "unit", "signed"])
def test_float_images_in_the_wrong_range_are_reported(stored, expected):
    model = trained_on(expected)
    given = PREPROCESSED[stored](PIXELS).astype(np.float32)
    mismatch = find_scale_mismatch(
        network(model, pixels=given), split(given), task="classification", measured=True, seed=0
    )
    assert (mismatch is None) is (stored == expected)
    assert mismatch is None or f"but {expected} would fit" in mismatch


def test_float_images_from_0_to_255_are_reported_for_an_untrained_network():
    given = PIXELS.astype(np.float32)
    plain, rescaling = classifier(), classifier(lambda x: layers.Rescaling(1 / 255)(x))
    options = {"task": "classification", "measured": False, "seed": 0}
    assert "does not rescale" in find_scale_mismatch(network(plain, pixels=given), split(given), **options)
    assert find_scale_mismatch(network(rescaling, pixels=given), split(given), **options) is None
    given = (PIXELS / 255.0).astype(np.float32)
    assert find_scale_mismatch(network(plain, pixels=given), split(given), **options) is None
    assert "but raw would fit" in find_scale_mismatch(network(rescaling, pixels=given), split(given), **options)


def test_standardization_equals_numpy():
    scale = Standardization(mean=(120.0, 110.0, 100.0), deviation=(60.0,))
    pixels = images(channels=3)
    ours = Preprocessing((6, 6, 3), "uint8", (6, 6, 3), "float32", scale)(pixels)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(ours), (pixels - np.array([120.0, 110, 100])) / 60, atol=1e-5
    )
    in_pixels = Standardization(mean=(0.5,), deviation=(0.25,)).in_pixels
    assert (in_pixels.mean, in_pixels.deviation) == ((127.5,), (63.75,))


def test_choosing_a_scale_leaves_the_network_unchanged():
    given = network(trained_on("raw"))
    choose_scale(given, split(), task="classification", measured=True, seed=0)
    assert given.preprocessing["x"].scale == "unit"
