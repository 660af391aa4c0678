"""Removing channels equals masking them: a copy of the full model in which nothing reads what was removed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from random_graphs import build_random_graph, draw_inputs, randomize

from kdcli.errors import ModelError
from kdcli.shrinking.channels import trace_channels
from kdcli.shrinking.groups import Kept, find_groups
from kdcli.shrinking.mask import mask_channels
from kdcli.shrinking.rebuild import rebuild


def remove(model, fraction, *, seed=0, free_normalized=False):
    """The channels of a model, and those kept when a random fraction of each group goes."""
    random = np.random.default_rng(seed)
    channels = trace_channels(model, free_normalized=free_normalized)
    removed = set()
    for group in find_groups(channels):
        count = min(len(group.roots) - 1, max(1, round(fraction * len(group.roots))))
        removed |= set(random.choice(group.roots, count, replace=False).tolist())
    return channels, Kept(channels, removed)


def run(model, inputs):
    return [np.asarray(one, np.float64) for one in keras.tree.flatten(model(inputs, training=False))]


def largest_difference(model, other, inputs):
    """The largest difference of two models' outputs, relative to the largest output."""
    return max(
        np.abs(one - two).max() / max(np.abs(one).max(), 1e-12)
        for one, two in zip(run(model, inputs), run(other, inputs), strict=True)
    )


def check(model, fraction, *, seed=0, tolerance=1e-5):
    channels, kept = remove(model, fraction, seed=seed)
    smaller, masked, inputs = rebuild(channels, kept), mask_channels(channels, kept), draw_inputs(model)
    assert largest_difference(masked, smaller, inputs) <= tolerance
    if kept.removed:
        assert smaller.count_params() < model.count_params()
        assert largest_difference(model, masked, inputs) > 1e-6
    everything = rebuild(channels, Kept(channels, set()))
    assert largest_difference(model, everything, inputs) <= 1e-6
    return channels, smaller


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs(seed):
    check(build_random_graph(seed), 0.5, seed=seed, tolerance=1e-9)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(30, 230))
def test_many_random_graphs(seed):
    check(build_random_graph(seed), [0.25, 0.5, 0.7][seed % 3], seed=seed, tolerance=1e-9)


def build_u_net():
    inputs = keras.Input((16, 16, 3))
    first = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    second = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(first))
    middle = layers.Conv2D(24, 3, padding="same", activation="relu")(layers.MaxPooling2D()(second))
    up = layers.Conv2DTranspose(16, 3, strides=2, padding="same")(middle)
    up = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.Concatenate()([up, second]))
    up = layers.Concatenate()([layers.UpSampling2D()(up), first])
    return keras.Model(inputs, layers.Conv2D(4, 1, activation="softmax")(up))


def build_two_inputs():
    image, numbers = keras.Input((8, 8, 1), name="image"), keras.Input((5,), name="numbers")
    x = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(image))
    y = layers.Dense(12, activation="relu")(numbers)
    z = layers.Dense(16, activation="relu")(layers.Concatenate()([x, y]))
    return keras.Model({"image": image, "numbers": numbers}, [layers.Dense(3)(z), layers.Dense(1)(y)])


def build_transformer():
    tokens = keras.Input((10,), dtype="int32")
    x = layers.Embedding(20, 16)(tokens)
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, activation="gelu")(x)))
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def build_lstm():
    tokens = keras.Input((10,), dtype="int32")
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(layers.Embedding(20, 12)(tokens))
    return keras.Model(tokens, layers.Dense(2, activation="softmax")(layers.LSTM(6)(x)))


def build_nested():
    backbone = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()], name="backbone"
    )
    return keras.Sequential([keras.Input((8, 8, 3)), backbone, layers.GlobalAveragePooling2D(), layers.Dense(3)])


def build_siamese():
    """One nested model that is called twice."""
    left, right, inside = keras.Input((8, 8, 1)), keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, activation="relu")(inside)
    encoder = keras.Model(inside, layers.Dense(6)(layers.Flatten()(x)), name="encoder")
    return keras.Model([left, right], layers.Dense(2)(keras.ops.abs(encoder(left) - encoder(right))))


HAND_MADE = [build_u_net, build_two_inputs, build_transformer, build_lstm, build_nested, build_siamese]


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("build", HAND_MADE, ids=lambda build: build.__name__)
def test_hand_made_models(build, fraction):
    check(randomize(build()), fraction)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("name", ["cnn", "resnet", "mobile", "mlp"])
def test_zoo_models(name, fraction):
    from kdcli.zoo import get_zoo_class

    options = {"depth": 20} if name == "resnet" else {}
    model = get_zoo_class(name)(**options).build((16, 16, 3), 10)
    channels, _ = check(randomize(model), fraction)
    assert channels.unknown == {}


APPLICATIONS = (
    "MobileNet MobileNetV2 MobileNetV3Small ResNet50 ResNet50V2 EfficientNetB0 EfficientNetV2B0 DenseNet121 "
    "Xception InceptionV3 VGG16 NASNetMobile ConvNeXtTiny"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS.split())
def test_applications(name):
    side = 224 if name == "NASNetMobile" else 96
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(side, side, 3), classes=10, classifier_activation=None)
    randomize(model)
    for fraction in (0.25, 0.5, 0.7):
        channels, _ = check(model, fraction)
        assert channels.unknown == {}


def widths(model, *, free_normalized=False):
    """The number of removable channels of each layer."""
    channels = trace_channels(model, free_normalized=free_normalized)
    return {maker.name: int((channels.slots.find(maker.vector) >= 0).sum()) for maker in channels.makers.values()}


def test_outputs_and_widths_under_a_layer_normalization_stay_unless_they_are_freed():
    model = build_transformer()
    free = widths(model)
    dense = [name for name in free if name.startswith("dense")]
    assert [free[name] for name in dense] == [32, 0, 32, 0, 0]
    assert all(free[name] == 4 for name in free if name.endswith("heads"))
    freed = widths(model, free_normalized=True)
    assert [freed[name] for name in dense] == [32, 16, 32, 16, 0]
    channels, kept = remove(randomize(model), 0.5, free_normalized=True)
    assert rebuild(channels, kept).count_params() < model.count_params()


def test_a_layer_that_is_not_understood_is_named_and_keeps_what_it_touches():
    @keras.saving.register_keras_serializable("test")
    class Flip(layers.Layer):
        def call(self, inputs):
            return inputs[..., ::-1]

    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="before")(inputs)
    x = layers.Conv2D(8, 3, name="touched")(x)
    x = layers.Conv2D(6, 3, name="after")(Flip(name="flip")(x))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    channels, _ = check(model, 0.5)
    assert channels.unknown == {("flip",): "(Flip) is not supported"}
    free = widths(model)
    assert (free["before"], free["touched"], free["after"]) == (8, 0, 6)
    touched = next(one for one in channels.makers.values() if one.name == "touched")
    assert channels.slots.get_reasons(touched.vector) == ["flip (Flip) is not supported"]


def test_a_single_channel_stays():
    inputs = keras.Input((8, 8, 3))
    gate = layers.Conv2D(1, 1, activation="sigmoid", name="gate")(inputs)
    x = layers.Multiply()([layers.Conv2D(8, 1, name="wide")(inputs), gate])
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    check(model, 0.5)
    assert widths(model)["wide"] == 8


@pytest.mark.parametrize("convert", [np.asarray, keras.ops.convert_to_tensor], ids=["array", "tensor"])
def test_a_constant_for_each_channel_keeps_the_width(convert):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 1, name="wide")(inputs) * convert(np.arange(8, dtype="float32"))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Conv2D(6, 1, name="free")(x)))))
    check(model, 0.5)
    assert [widths(model)[name] for name in ("wide", "free")] == [0, 6]


def test_layers_that_touch_no_channels_are_not_named():
    inputs = keras.Input((8, 8, 3))
    x = layers.RandomRotation(0.1)(layers.Rescaling(1 / 255)(inputs))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Conv2D(6, 1)(x)))))
    channels, _ = check(model, 0.5)
    assert channels.unknown == {}


def test_a_weight_shared_between_a_free_and_a_frozen_width_stays():
    shared = layers.Dense(6, name="shared")
    one, two = keras.Input((4,)), keras.Input((4,))
    hidden = layers.Dense(3)(shared(one))
    model = randomize(keras.Model([one, two], [hidden, shared(two)]))
    assert widths(model)["shared"] == 0
    check(model, 0.5)


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.zeros((1, 4)))
    with pytest.raises(ModelError, match=r"graph of a subclassed model \(Own\) is not known") as caught:
        trace_channels(model)
    assert caught.value.exit_code == 4
    assert "kd inspect zoo:cnn" in caught.value.hint


def test_the_smaller_model_opens_without_kd(tmp_path):
    channels, kept = remove(randomize(build_nested()), 0.5)
    smaller = rebuild(channels, kept)
    smaller.save(tmp_path / "small.keras")
    loaded, inputs = keras.saving.load_model(tmp_path / "small.keras"), draw_inputs(smaller)
    np.testing.assert_array_equal(run(loaded, inputs)[0], run(smaller, inputs)[0])


def build_masked_text():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=True, name="table")(tokens)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True), name="both")(x)
    x = layers.TimeDistributed(layers.Dense(8, activation="relu"), name="each")(x)
    return keras.Model(tokens, layers.Dense(2)(layers.GRU(6, name="last")(x)))


def test_masks_do_not_keep_widths():
    model = randomize(build_masked_text())
    channels, _ = check(model, 0.5)
    assert channels.unknown == {}
    free = widths(model)
    assert [name for name in free if not free[name]] == [model.layers[-1].name]


def build_attention_scores():
    inputs = keras.Input((5, 8))
    x, scores = layers.MultiHeadAttention(4, 2, name="attend")(inputs, inputs, return_attention_scores=True)
    return keras.Model(inputs, [layers.Dense(3)(x), scores])


def build_scores_that_are_read():
    inputs = keras.Input((5, 8))
    _, scores = layers.MultiHeadAttention(4, 2, name="attend")(inputs, inputs, return_attention_scores=True)
    x = layers.Conv2D(3, 1)(layers.Permute((2, 3, 1))(scores))
    return keras.Model(inputs, layers.Flatten()(x))


def build_mask_for_each_head():
    inputs, mask = keras.Input((5, 8)), keras.Input((4, 5, 5), dtype="bool")
    x = layers.MultiHeadAttention(4, 2, name="attend")(inputs, inputs, attention_mask=mask)
    return keras.Model([inputs, mask], layers.Dense(3)(x))


@pytest.mark.parametrize(
    ("build", "free"),
    [(build_attention_scores, 0), (build_scores_that_are_read, 4), (build_mask_for_each_head, 0)],
)
def test_attention_heads_follow_their_scores_and_masks(build, free):
    model = randomize(build())
    assert widths(model)["attend heads"] == free
    channels, kept = remove(model, 0.5)
    inputs = draw_inputs(model) if build is not build_mask_for_each_head else [
        np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32"), np.ones((2, 4, 5, 5), bool)
    ]  # fmt: skip
    assert largest_difference(mask_channels(channels, kept), rebuild(channels, kept), inputs) < 1e-5


def test_a_layer_that_reads_free_and_frozen_channels_keeps_them():
    shared = layers.Dense(4, name="shared")
    one, two = keras.Input((4,)), keras.Input((6,))
    x = layers.Dense(6, name="free")(one)
    model = randomize(keras.Model([one, two], layers.Dense(2)(shared(x) + shared(two))))
    assert widths(model)["free"] == 0
    check(model, 0.5)


def test_a_layer_of_two_nested_models_is_refused():
    inside = keras.Input((8,))
    middle = layers.Dense(6, name="middle")(inside)
    whole, part = keras.Model(inside, layers.Dense(4)(middle)), keras.Model(inside, middle)
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([whole(inputs), part(inputs)])))
    with pytest.raises(ModelError, match=r"the layer \S+/middle is shared with another nested model"):
        trace_channels(model)


def test_a_nested_model_takes_a_dictionary():
    inside = {"b": keras.Input((4,), name="b"), "a": keras.Input((6,), name="a")}
    nested = keras.Model(inside, layers.Dense(6)(layers.Concatenate()([inside["b"], inside["a"]])))
    inputs = keras.Input((5,))
    parts = {"b": layers.Dense(4, name="to_b")(inputs), "a": layers.Dense(6, name="to_a")(inputs)}
    model = randomize(keras.Model(inputs, layers.Dense(2)(nested(parts))))
    assert [widths(model)[name] for name in ("to_a", "to_b")] == [6, 4]
    check(model, 0.5)


def test_channels_first():
    inputs = keras.Input((3, 8, 8))
    x = layers.DepthwiseConv2D(3, data_format="channels_first", padding="same")(inputs)
    x = layers.Conv2D(8, 1, data_format="channels_first")(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    channels, kept = remove(randomize(keras.Model(inputs, layers.Dense(2)(x))), 0.5)
    smaller, masked = rebuild(channels, kept), mask_channels(channels, kept)
    assert smaller.count_params() < masked.count_params()
    assert [one.shape for one in smaller.weights][-2] == (4, 2)
