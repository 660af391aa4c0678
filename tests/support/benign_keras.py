"""Small benign Keras models of every common kind."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import Input, Model, Sequential, layers, ops


def dense():
    x = Input((4,))
    return Model(x, layers.Dense(3, activation="softmax")(layers.Dense(5, activation="relu")(x)))


def compiled():
    model = dense()
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy", keras.metrics.AUC()])
    model.fit(np.ones((4, 4)), np.eye(3)[[0, 1, 2, 0]], verbose=0)
    return model


def custom_loss():
    def distance(labels, predictions):
        return ops.mean(ops.square(labels - predictions))

    model = dense()
    model.compile("sgd", distance)
    return model


def convolutions():
    x = Input((12, 12, 3))
    y = layers.Conv2D(4, 3, padding="same", kernel_regularizer="l2", kernel_constraint="max_norm")(x)
    y = layers.ReLU(6.0)(layers.SpatialDropout2D(0.1)(layers.BatchNormalization()(y)))
    y = layers.SeparableConv2D(5, 3)(layers.DepthwiseConv2D(3, padding="same")(layers.ZeroPadding2D(2)(y)))
    y = layers.UpSampling2D(2)(layers.Conv2DTranspose(4, 3, strides=2)(y))
    y = layers.PReLU(shared_axes=[1, 2])(layers.GroupNormalization(2)(y))
    return Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.LeakyReLU()(y))))


def other_axes():
    x = Input((8, 2))
    y = layers.Conv1D(4, 3, groups=2, kernel_initializer=keras.initializers.HeNormal(seed=3))(x)
    y = layers.Reshape((2, 3, 2, 2))(layers.Dense(4)(layers.MaxPooling1D(1)(y)))
    return Model(x, layers.Flatten()(layers.Conv3D(2, 1, kernel_regularizer=keras.regularizers.L1L2())(y)))


def recurrent():
    x = Input((5, 3))
    y = layers.Bidirectional(layers.LSTM(4, return_sequences=True), backward_layer=None)(x)
    y = layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="sum")(y)
    y = layers.TimeDistributed(layers.Dense(3))(layers.SimpleRNN(4, return_sequences=True)(y))
    return Model(x, layers.GRU(2, reset_after=False)(layers.Masking(-1_000_000_000)(y)))


def cells():
    x = Input((5, 3))
    stacked = layers.StackedRNNCells([layers.GRUCell(3), layers.LSTMCell(2), layers.SimpleRNNCell(2)])
    return Model(x, layers.RNN(stacked)(x))


def recurrent_images():
    x = Input((3, 6, 6, 1))
    return Model(x, layers.Flatten()(layers.ConvLSTM2D(2, 3)(x)))


def attention():
    x = Input((6, 8))
    y = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)]))
    y = layers.RMSNormalization()(layers.GroupQueryAttention(4, 4, 2)(y, y))
    y = layers.Attention()([y, layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d")(y)])
    return Model(x, layers.GlobalMaxPooling1D()(layers.UnitNormalization()(y)))


def tokens():
    x = Input((6,), dtype="int32")
    y = layers.Embedding(20, 4, mask_zero=True)(x)
    return Model(x, layers.Dense(2, activation=keras.activations.gelu)(layers.LSTM(3)(y)))


def text():
    x = Input((1,), dtype="string")
    words = layers.TextVectorization(vocabulary=["good", "bad", "/etc/hosts"], output_sequence_length=4)(x)
    return Model(x, layers.GlobalAveragePooling1D()(layers.Embedding(8, 4)(words)))


def learned_text():
    learned = layers.TextVectorization(output_mode="tf_idf")
    learned.adapt(np.array(["a good film", "a bad film"]))
    x = Input((1,), dtype="string")
    return Model(x, layers.Dense(2)(learned(x)))


def lookups():
    words, numbers = layers.StringLookup(), layers.IntegerLookup(vocabulary=[10, 20, 3_000_000_000])
    words.adapt(np.array(["left", "right"]))
    x, y = Input((1,), dtype="string", name="word"), Input((1,), dtype="int64", name="number")
    hashed = layers.CategoryEncoding(12, "one_hot")(layers.Hashing(12)(x))
    rows = [
        layers.CategoryEncoding(5, "one_hot")(words(x)),
        layers.CategoryEncoding(4, "one_hot")(numbers(y)),
        hashed,
    ]
    return Model({"word": x, "number": y}, {"class": layers.Dense(2)(layers.Concatenate()(rows))})


def columns():
    x = Input((1,))
    scale = layers.Normalization(mean=2.0, variance=4.0)(x)
    steps = layers.Discretization(bin_boundaries=[0.0, 1e9], output_mode="one_hot")(x)
    return Model(x, layers.Dense(1)(layers.Concatenate()([scale, layers.Flatten()(steps)])))


def adapted():
    scale = layers.Normalization()
    scale.adapt(np.random.default_rng(0).normal(size=(20, 3)))
    return Sequential([Input((3,)), scale, layers.Dense(2)])


def images():
    steps = [layers.Resizing(10, 10), layers.Rescaling(1 / 127.5, -1), layers.RandomFlip("horizontal")]
    steps += [
        layers.RandomRotation(0.1),
        layers.RandomZoom(0.1),
        layers.RandomContrast(0.2),
        layers.CenterCrop(8, 8),
    ]
    return Sequential([Input((12, 12, 3)), *steps, layers.Flatten(), layers.Dense(2)])


def operators():
    x = Input((4, 3))
    y = ops.concatenate([x * 2, ops.relu(x) + 1.5, x - 2_000_000_000], axis=-1)
    y = ops.expand_dims(ops.mean(y[:, 1:3], axis=1), 1)[..., 0:2]
    y = ops.where(y > 0, ops.clip(y, -(2**31), 2**31), ops.softmax(y))
    return Model(x, ops.reshape(ops.tile(ops.pad(y, ((0, 0), (0, 1), (0, 0))), [1, 2, 1]), (-1, 8)))


def nested():
    inner = Sequential([Input((4,)), layers.Dense(4, name="inside")], name="block")
    inner.compile("sgd", "mse", metrics=["mae"])
    x, z = Input((4,)), Input((4,))
    return Model([x, z], [inner(inner(x)), layers.Dense(2)(inner(z))])


def shared():
    same, x, z = layers.Dense(3), Input((4,)), Input((4,))
    return Model([x, z], layers.Dot(-1)([same(x), same(z)]))


def sequential():
    return Sequential(
        [Input((4,)), layers.Dense(3), layers.Dropout(0.5), layers.Activation("swish"), layers.ELU()]
    )


def no_weights():
    return Sequential([Input((4, 4, 1)), layers.AveragePooling2D(2), layers.Flatten(), layers.Softmax()])


def half_precision():
    x = Input((4,))
    y = layers.Dense(3, dtype="mixed_bfloat16")(x)
    return Model(x, layers.Dense(2, dtype="float32")(layers.Dense(3, dtype="bfloat16")(y)))


def policies():
    per_layer = keras.dtype_policies.DTypePolicyMap("float32")
    per_layer["block/inside"] = keras.dtype_policies.DTypePolicy("mixed_float16")
    inner = Sequential([Input((4,)), layers.Dense(4, name="inside", dtype="mixed_float16")], name="block")
    return Sequential([Input((4,)), inner, layers.MultiHeadAttention(1, 2, dtype=per_layer) and layers.Dense(2)])


def _quantize(mode):
    model = Sequential([Input((8,)), layers.Dense(6), layers.Dense(4)])
    with warnings.catch_warnings():
        # Keras warns about the input layer.
        warnings.simplefilter("ignore")
        model.quantize(mode)
    return model


def quantized():
    return _quantize("int8")


def four_bits():
    return _quantize("int4")


def constants():
    x = Input((3,))
    value = keras.initializers.Constant(np.arange(6, dtype="float32").reshape(3, 2))
    return Model(x, layers.Dense(2, kernel_initializer=value, bias_constraint="non_neg")(x))


def normed():
    x = Input((8, 8, 2))
    y = layers.SpectralNormalization(layers.Conv2D(3, 3))(x)
    return Model(x, layers.Flatten()(layers.GaussianNoise(0.1)(layers.Cropping2D(1)(y))))


def spectrum():
    x = Input((400,))
    return Model(x, layers.GlobalAveragePooling2D()(layers.Reshape((-1, 8, 1))(layers.Dense(16)(x))))


def fixed_batch():
    x = Input(batch_shape=(2, 5, 3))
    return Model(x, layers.LSTM(3, stateful=True)(x))


# Models that Keras saves as `.keras`.
MODELS = (
    dense, compiled, custom_loss, convolutions, other_axes, recurrent, cells, recurrent_images, attention, tokens,
    text, learned_text, lookups, columns, adapted, images, operators, nested, shared, sequential, no_weights,
    half_precision, policies, quantized, four_bits, constants, normed, spectrum, fixed_batch,
)  # fmt: skip
# Models that Keras also loads from `.h5`: without operators, lookups and quantized weights.
H5_MODELS = (
    dense, compiled, convolutions, other_axes, recurrent, attention, tokens, adapted, nested, shared, sequential,
    no_weights, constants, fixed_batch,
)  # fmt: skip
# `keras.applications`, with the smallest image size that each accepts.
FAMILIES = {
    "MobileNetV2": 32, "MobileNetV3Small": 32, "EfficientNetV2B0": 32, "EfficientNetB0": 32, "ConvNeXtTiny": 32,
    "DenseNet121": 32, "ResNet50V2": 32, "NASNetMobile": 32, "Xception": 71, "InceptionV3": 75,
    "InceptionResNetV2": 75, "VGG16": 32,
}  # fmt: skip
