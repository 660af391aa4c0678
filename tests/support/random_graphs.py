"""Random Keras graphs of 3 to 15 layers, from the kinds that shrinking understands."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from kdcli.models.keras.inputs import describe_inputs


def randomize(model, seed=0):
    """Draw every weight, statistics included, so that no channel is without effect."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        value = weight.numpy()
        if not np.issubdtype(value.dtype, np.floating):
            continue
        if weight.name in ("gamma", "moving_variance", "variance"):
            weight.assign(random.uniform(0.5, 1.5, value.shape))
        elif value.ndim < 2:
            weight.assign(random.normal(0, 0.3, value.shape))
        else:
            fan = np.prod(value.shape[:-1])
            weight.assign(random.normal(0, 1.5 / np.sqrt(fan), value.shape))
    return model


def build_random_graph(seed):
    """A functional model with a random graph over images or sequences, and one or two outputs."""
    random = np.random.default_rng(seed)
    keras.backend.clear_session()
    before = keras.config.dtype_policy(), keras.config.floatx()
    # In float32 a graph of 15 layers does not show 1e-5.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        build = [_build_images, _build_sequences, _build_tokens][random.choice(3, p=[0.6, 0.25, 0.15])]
        inputs, flat = build(random)
        outputs = [layers.Dense(3, name="first")(flat)]
        if random.random() < 0.3:
            outputs.append(layers.Dense(2, activation="softmax", name="second")(flat))
        return randomize(keras.Model(inputs, outputs), seed)
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_floatx(before[1])


def draw_inputs(model, examples=3, seed=0):
    """Random inputs in the structure that the model takes."""
    random = np.random.default_rng(seed)
    drawn = []
    for one in model.inputs:
        shape = (examples, *one.shape[1:])
        whole = "int" in one.dtype
        drawn.append(random.integers(0, 9, shape) if whole else random.normal(size=shape).astype(one.dtype))
    return keras.tree.pack_sequence_as(describe_inputs(model, model.name)[0], drawn)


def _width(random):
    return int(random.choice([2, 3, 4, 6, 8]))


def _build_images(random):
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    tensors = [layers.Conv2D(6, 3, padding="same")(inputs)]
    for _ in range(random.integers(2, 11)):
        tensors.append(_add_image_layer(random, tensors, shared))
    last = tensors[-1]
    ends = [
        layers.GlobalAveragePooling2D(),
        layers.Flatten(),
        layers.GlobalMaxPooling2D(),
        lambda x: layers.Reshape((-1,))(x),
    ]
    return inputs, ends[random.integers(len(ends))](last)


def _add_image_layer(random, tensors, shared):
    x, width = tensors[random.integers(max(0, len(tensors) - 3), len(tensors))], _width(random)
    channels = x.shape[-1]
    same = [one for one in tensors if one.shape[1:] == x.shape[1:]]
    groups = [number for number in (2, 3) if channels % number == 0] or [1]
    chosen_groups = int(random.choice(groups))
    made = [
        lambda: layers.Conv2D(width, 3, padding="same", activation="relu")(x),
        lambda: layers.Conv2D(width * chosen_groups, 3, padding="same", groups=chosen_groups)(x),
        lambda: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=int(random.choice([1, 2])))(x),
        lambda: layers.SeparableConv2D(width, 3, padding="same", depth_multiplier=int(random.choice([1, 2])))(x),
        lambda: layers.Conv2DTranspose(width, 3, padding="same")(x),
        lambda: layers.BatchNormalization()(x),
        lambda: layers.LayerNormalization()(x),
        lambda: layers.GroupNormalization(groups=chosen_groups)(x),
        lambda: layers.PReLU(shared_axes=[1, 2])(x),
        lambda: layers.PReLU()(x),
        lambda: layers.Activation("swish")(x),
        lambda: keras.ops.relu(x) * 0.5,
        lambda: layers.Add()([x, same[random.integers(len(same))]]),
        lambda: x + same[random.integers(len(same))],
        lambda: layers.Maximum()([x, same[random.integers(len(same))]]),
        lambda: layers.Concatenate()([x, same[random.integers(len(same))]]),
        lambda: _squeeze_and_excite(x, width),
        lambda: layers.Add()([layers.Conv2D(channels, 3, padding="same")(layers.ReLU()(x)), x]),
        lambda: layers.Dense(width, activation="gelu")(x),
        lambda: layers.EinsumDense("abcd,de->abce", output_shape=(*x.shape[1:3], width), bias_axes="e")(x),
        lambda: shared(layers.Conv2D(6, 1)(x)),
        lambda: _build_nested(x, width)(x),
        lambda: layers.Permute((2, 1, 3))(x),
        lambda: _compute_as_sequence(x),
        lambda: layers.Dropout(0.5)(layers.MaxPooling2D(2, padding="same")(x)),
        lambda: layers.UpSampling2D(2)(x),
        lambda: keras.ops.transpose(keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2], channels)), (0, 2, 1)),
        lambda: keras.ops.squeeze(keras.ops.expand_dims(x, 1), 1) / 2.0,
        lambda: layers.RMSNormalization()(x),
        lambda: layers.UnitNormalization()(x),
        lambda: layers.Conv2D(width, 3, padding="same")(inputs=x),
        lambda: keras.ops.mean(x, axis=1, keepdims=True) + x,
    ]
    result = made[random.integers(len(made))]()
    if len(result.shape) == 3:
        # Channels first, as a sequence of channels: back to an image.
        result = layers.Permute((2, 3, 1))(layers.Reshape((result.shape[1], *x.shape[1:3]))(result))
    return layers.AveragePooling2D(2)(result) if result.shape[1] > 12 else result


def _compute_as_sequence(x):
    height, width, channels = x.shape[1:]
    return layers.Reshape((height, width, 5))(layers.Dense(5)(layers.Reshape((height * width, channels))(x)))


def _squeeze_and_excite(x, width):
    channels = x.shape[-1]
    pooled = layers.GlobalAveragePooling2D()(x)
    scale = layers.Dense(channels, activation="sigmoid")(layers.Dense(width, activation="relu")(pooled))
    return layers.Multiply()([x, layers.Reshape((1, 1, channels))(scale)])


def _build_nested(x, width):
    inside = keras.Input(x.shape[1:])
    y = layers.Conv2D(width, 3, padding="same", activation="relu")(inside)
    return keras.Model(inside, layers.BatchNormalization()(layers.Conv2D(width, 1)(y)))


def _build_sequences(random):
    inputs = keras.Input((6, 4))
    x = inputs
    for _ in range(random.integers(1, 6)):
        width = _width(random)
        x = [
            lambda x, n: layers.LSTM(n, return_sequences=True)(x),
            lambda x, n: layers.GRU(n, return_sequences=True)(x),
            lambda x, n: layers.GRU(n, return_sequences=True, reset_after=False)(x),
            lambda x, n: layers.SimpleRNN(n, return_sequences=True)(x),
            lambda x, n: layers.Bidirectional(layers.LSTM(n, return_sequences=True))(x),
            lambda x, n: layers.Bidirectional(layers.GRU(n, return_sequences=True), merge_mode="sum")(x),
            lambda x, n: layers.Conv1D(n, 3, padding="causal", activation="tanh")(x),
            lambda x, n: layers.SeparableConv1D(n, 3, padding="same")(x),
            lambda x, n: layers.DepthwiseConv1D(3, padding="same")(x),
            lambda x, n: layers.Conv1DTranspose(n, 3, padding="same")(x),
            lambda x, n: layers.TimeDistributed(layers.Dense(n, activation="relu"))(x),
            lambda x, n: layers.TimeDistributed(layers.BatchNormalization())(x),
            lambda x, n: layers.Permute((2, 1))(layers.Dense(6)(layers.Permute((2, 1))(x))),
        ][random.integers(13)](x, width)
    if random.random() < 0.5:
        return inputs, layers.LSTM(5)(x)
    return inputs, layers.Flatten()(x)


def _build_tokens(random):
    inputs = keras.Input((7,), dtype="int32")
    width = int(random.choice([4, 8]))
    x = layers.Embedding(10, width, mask_zero=bool(random.integers(2)))(inputs)
    for _ in range(random.integers(1, 3)):
        heads = layers.MultiHeadAttention(int(random.choice([2, 4])), 3)
        x = x + heads(x, x) if random.random() < 0.5 else layers.Add()([x, heads(query=x, value=x)])
        if random.random() < 0.5:
            x = layers.LayerNormalization()(x)
        y = layers.Dense(_width(random), activation="gelu")(x)
        x = layers.Add()([x, layers.Dense(width)(y)])
    if random.random() < 0.4:
        x = layers.Bidirectional(layers.LSTM(_width(random), return_sequences=True))(x)
    return inputs, layers.GlobalAveragePooling1D()(x)
