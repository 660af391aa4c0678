"""A small network of each architecture, for images (16, 16, 1) of three classes."""

from __future__ import annotations

import keras

from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.zoo import Cnn, Mobile, Resnet

SHAPE = (16, 16, 1)


def cnn(width):
    return Cnn(width=width).build(SHAPE, 3)


def residual(width):
    return Resnet(depth=14, width=width).build(SHAPE, 3)


def depthwise(width):
    return Mobile(width=width).build(SHAPE, 3)


def transformer(width, *, blocks=3, patch=4, token=False, dropout=0.0, heads=2):
    """Patches, blocks of attention and two dense layers, the mean of the tokens or the class token."""
    layers = keras.layers
    inputs = keras.Input(SHAPE)
    count = (SHAPE[0] // patch) ** 2
    x = layers.Conv2D(2 * width, patch, strides=patch, name="patches")(inputs)
    x = layers.Reshape((count, 2 * width), name="tokens")(x)
    if token:
        x = layers.ZeroPadding1D((1, 0), name="with_class")(x)
    for block in range(1, blocks + 1):
        y = layers.LayerNormalization(name=f"block{block}_first")(x)
        attention = layers.MultiHeadAttention(heads, width, dropout=dropout, name=f"block{block}_attention")
        x = layers.Add(name=f"block{block}_attended")([x, attention(y, y)])
        y = layers.LayerNormalization(name=f"block{block}_second")(x)
        y = layers.Dense(4 * width, activation="gelu", name=f"block{block}_inner")(y)
        x = layers.Add(name=f"block{block}")([x, layers.Dense(2 * width, name=f"block{block}_outer")(y)])
    x = layers.LayerNormalization(name="normalization")(x)
    x = layers.Flatten(name="class")(layers.Cropping1D((0, count))(x)) if token else x
    x = x if token else layers.GlobalAveragePooling1D(name="pooling")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


BUILDS = {"cnn": cnn, "residual": residual, "depthwise": depthwise, "transformer": transformer}


def network(model):
    preprocessing = Preprocessing(SHAPE, "uint8", SHAPE, "float32")
    return KerasNetwork(model, name="given").with_preprocessing({"x": preprocessing})


def small(name, *, width=2, seed=0, **options):
    """A network by its architecture."""
    keras.utils.set_random_seed(seed)
    return network(BUILDS[name](width, **options))
