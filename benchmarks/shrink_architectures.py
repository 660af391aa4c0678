"""Channels removed from known architectures: how many, what stays and why, how exactly, in how many seconds.

Run: python benchmarks/shrink_architectures.py [--keep 0.5] [--only ResNet50 ...]

Weights are random; so are the removed channels, as many as `kd shrink --keep` would remove. The difference is that
between the smaller model and the full one in which nothing reads the removed channels, relative to the largest
output, in float32. Seconds: tracing the graph and building the smaller model.
"""

import argparse
import time

import keras
import numpy as np
from keras import layers

from kdcli.shrinking.allocation import choose_removed
from kdcli.shrinking.channels import trace_channels
from kdcli.shrinking.groups import Kept, find_groups
from kdcli.shrinking.mask import mask_channels
from kdcli.shrinking.rebuild import rebuild
from kdcli.zoo import get_zoo_class

APPLICATIONS = (
    "MobileNet MobileNetV2 MobileNetV3Small ResNet50 ResNet50V2 EfficientNetB0 EfficientNetV2B0 DenseNet121 "
    "Xception InceptionV3 VGG16 NASNetMobile ConvNeXtTiny"
).split()
ZOO = ("cnn", "resnet", "mobile", "mlp")


def build_u_net():
    """An encoder and a decoder with skip connections."""
    inputs = keras.Input((64, 64, 3))
    sides, x = [], inputs
    for width in (16, 32, 64):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        sides.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(128, 3, padding="same", activation="relu")(x)
    for width, side in zip((64, 32, 16), reversed(sides), strict=True):
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same")(x)
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(layers.Concatenate()([x, side]))
    return keras.Model(inputs, layers.Conv2D(4, 1)(x), name="u-net")


def build_two_inputs():
    """An image and a vector."""
    image, numbers = keras.Input((32, 32, 3)), keras.Input((20,))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3, activation="relu")(image))
    x = layers.Concatenate()([x, layers.Dense(64, activation="relu")(numbers)])
    return keras.Model(
        [image, numbers], layers.Dense(10)(layers.Dense(64, activation="relu")(x)), name="two inputs"
    )


def build_transformer():
    """An encoder over tokens with four blocks."""
    tokens = keras.Input((64,), dtype="int32")
    x = layers.Embedding(1000, 64)(tokens)
    for _ in range(4):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(8, 8)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(64)(layers.Dense(256, activation="gelu")(x)))
    return keras.Model(tokens, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)), name="transformer")


def build_lstm():
    """A bidirectional classifier over tokens."""
    tokens = keras.Input((64,), dtype="int32")
    x = layers.Bidirectional(layers.LSTM(64, return_sequences=True))(layers.Embedding(1000, 64)(tokens))
    return keras.Model(tokens, layers.Dense(2)(layers.LSTM(64)(x)), name="lstm")


def build(name):
    """A model by the name of its row."""
    own = {
        "u-net": build_u_net,
        "two inputs": build_two_inputs,
        "transformer": build_transformer,
        "lstm": build_lstm,
    }
    if name in own:
        return own[name]()
    if name in ZOO:
        return get_zoo_class(name)().build((32, 32, 3), 10)
    side = 224 if name == "NASNetMobile" else 96
    options = {"weights": None, "input_shape": (side, side, 3), "classes": 10, "classifier_activation": None}
    return getattr(keras.applications, name)(**options)


def randomize(model):
    """Draw every weight, so that no channel is without effect."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        shape = weight.shape
        if weight.name in ("gamma", "moving_variance", "variance"):
            weight.assign(random.uniform(0.5, 1.5, shape))
        elif "float" in weight.dtype and len(shape) < 2:
            weight.assign(random.normal(0, 0.1, shape))


def draw(model):
    """Two random examples."""
    random = np.random.default_rng(0)
    drawn = [
        random.integers(0, 99, (2, *one.shape[1:]))
        if "int" in one.dtype
        else random.normal(size=(2, *one.shape[1:]))
        for one in model.inputs
    ]
    return drawn if len(drawn) > 1 else drawn[0]


def measure(name, keep):
    """One row of the table."""
    keras.backend.clear_session()
    model = build(name)
    randomize(model)
    began = time.perf_counter()
    channels = trace_channels(model)
    groups = find_groups(channels)
    random = np.random.default_rng(0)
    scores = [random.random(len(group.roots)) for group in groups]
    kept = Kept(channels, choose_removed(groups, scores, keep=keep))
    smaller = rebuild(channels, kept)
    seconds = time.perf_counter() - began
    inputs = draw(model)
    full, small = (np.asarray(one(inputs, training=False)) for one in (mask_channels(channels, kept), smaller))
    frozen = {}
    for maker in channels.makers.values():
        if kept.count(maker.vector) == len(maker.vector) and (reasons := channels.slots.get_reasons(maker.vector)):
            frozen.setdefault(reasons[0].split(" ", 1)[-1], []).append(maker.name)
    why = "; ".join(f"{len(names)} ({reason})" for reason, names in frozen.items())
    difference = np.abs(full - small).max() / np.abs(full).max()
    share = smaller.count_params() / model.count_params()
    return name, model.count_params(), smaller.count_params(), f"{1 - share:.1%}", difference, seconds, why


def main():
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--only", nargs="*")
    chosen = parser.parse_args()
    print("| model | parameters | student | removed | difference | seconds | layers that keep their width |")
    print("|---|---|---|---|---|---|---|")
    for name in chosen.only or (*ZOO, *APPLICATIONS, "u-net", "two inputs", "transformer", "lstm"):
        row = measure(name, chosen.keep)
        print("| {} | {:,} | {:,} | {} | {:.1g} | {:.1f} | {} |".format(*row), flush=True)


if __name__ == "__main__":
    main()
