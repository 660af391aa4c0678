"""Benign SavedModels as users save them; each function writes one to a folder."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from hostile_graphs import VECTOR, save_function
from keras import layers

TEXTS = tf.TensorSpec([None], tf.string, name="text")


def export(folder, shape, *stack, dtype=None):
    """Export a sequential Keras 3 model."""
    inputs = keras.Input(shape, dtype=dtype)
    x = inputs
    for layer in stack:
        x = layer(x)
    keras.Model(inputs, x).export(folder, verbose=False)


def convolutions(folder):
    export(
        folder,
        (12, 12, 3),
        layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3),
        layers.MaxPooling2D(),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    )


def upsampling(folder):
    transposed = layers.Conv2DTranspose(3, 3, strides=2, padding="same")
    export(folder, (8, 8, 3), transposed, layers.UpSampling2D(interpolation="bilinear"), layers.PReLU())


def activations(folder):
    names = [
        "gelu",
        "silu",
        "elu",
        "selu",
        "softplus",
        "tanh",
        "mish",
        "hard_sigmoid",
        "leaky_relu",
        "log_softmax",
    ]
    export(folder, (6,), *[layers.Dense(6, activation=name) for name in names])


def lstm(folder):
    export(folder, (8, 4), layers.LSTM(5), layers.Dense(2))


def gru(folder):
    export(folder, (None, 4), layers.GRU(5, return_sequences=True), layers.GlobalAveragePooling1D())


def bidirectional(folder):
    export(folder, (8, 4), layers.Bidirectional(layers.LSTM(4)), layers.Dense(2))


def attention(folder):
    inputs = keras.Input((6, 8))
    x = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(2, 4)(inputs, inputs))
    keras.Model(inputs, layers.Dense(2)(x)).export(folder, verbose=False)


def preprocessing(folder):
    normalization = layers.Normalization(mean=[0.5] * 3, variance=[0.1] * 3)
    sizes = (layers.Rescaling(1 / 255), normalization, layers.Resizing(12, 12), layers.CenterCrop(10, 10))
    random = (layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomZoom(0.1), layers.RandomContrast(0.1))
    export(folder, (16, 16, 3), *sizes, *random, layers.Flatten(), layers.Dense(2))


def text_vectorization(folder):
    vectorize = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)
    export(folder, (1,), vectorize, layers.Embedding(9, 3), layers.Flatten(), layers.Dense(2), dtype="string")


def string_lookup(folder):
    export(folder, (1,), layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot"), dtype="string")


def string_lookup_from_a_file(folder):
    words = folder.parent / "words.txt"
    words.write_text("a\nb\n")
    export(folder, (1,), layers.StringLookup(vocabulary=str(words), output_mode="one_hot"), dtype="string")


def categories(folder):
    export(folder, (3,), layers.CategoryEncoding(5, output_mode="multi_hot"), layers.Dense(2), dtype="int32")


def hashing(folder):
    export(folder, (3,), layers.Hashing(5), layers.CategoryEncoding(5), dtype="string")


def token_numbers(folder):
    export(folder, (8,), layers.Embedding(20, 4, mask_zero=True), layers.LSTM(4), dtype="int32")


def dictionaries(folder):
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    x = layers.Concatenate()([layers.Dense(4)(first), second])
    outputs = {"y": layers.Dense(2)(x), "z": layers.Dense(1)(x)}
    keras.Model({"first": first, "second": second}, outputs).export(folder, verbose=False)


def half_precision(folder):
    export(folder, (8, 8, 3), layers.Conv2D(4, 3, dtype="mixed_bfloat16"), layers.Flatten())


def module(folder):
    weight = tf.Variable(tf.ones([3, 2]))
    save_function(folder, lambda x: {"probabilities": tf.nn.softmax(x @ weight)}, weight=weight)


def condition(folder):
    save_function(folder, lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2.0, lambda: x))


def loop(folder):
    save_function(folder, lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, v * 2.0), (0, x))[1])


def mapping(folder):
    save_function(folder, lambda x: tf.map_fn(lambda row: tf.reduce_sum(row), x))


def scanning(folder):
    save_function(folder, lambda x: tf.scan(lambda old, row: old + row, x))


def vectorized(folder):
    save_function(folder, lambda x: tf.vectorized_map(lambda row: tf.reduce_sum(row * 2.0), x))


def custom_gradient(folder):
    @tf.custom_gradient
    def square(x):
        return x * x, lambda upstream: upstream * 2.0 * x

    save_function(folder, square)


def jpeg_bytes(folder):
    def decode(content):
        return tf.image.resize(tf.io.decode_jpeg(content, channels=3), (8, 8))

    save_function(folder, lambda x: tf.map_fn(decode, x, fn_output_signature=tf.float32), specification=TEXTS)


def serialized_examples(folder):
    features = {"x": tf.io.FixedLenFeature([3], tf.float32)}
    save_function(folder, lambda x: tf.io.parse_example(x, features)["x"], specification=TEXTS)


def printing(folder):
    def call(x):
        tf.print("mean", tf.reduce_mean(x))
        return tf.debugging.check_numerics(x, "x")

    save_function(folder, call)


def random_numbers(folder):
    generator = tf.random.Generator.from_seed(1)
    save_function(folder, lambda x: x + generator.normal([3]), generator=generator)


def static_table(folder):
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1.0]), 0.0)
    save_function(folder, table.lookup, specification=TEXTS, table=table)


def table_from_an_asset(folder):
    words = folder.parent / "words.txt"
    words.write_text("a\nb\n")
    line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    filled = tf.lookup.TextFileInitializer(str(words), tf.string, line, tf.int64, number)
    table = tf.lookup.StaticVocabularyTable(filled, 2)
    save_function(folder, table.lookup, specification=TEXTS, table=table)


def changing_table(folder):
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, 0)
    save_function(folder, table.lookup, specification=TEXTS, table=table)


def on_device_training(folder):
    """A model for training on a phone, with signatures that save and restore."""
    weight, made = tf.Variable(tf.zeros([3, 1])), tf.Module()
    path = tf.TensorSpec([], tf.string, name="path")

    def train(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ weight) ** 2)
        weight.assign_sub(0.1 * tape.gradient(loss, weight))
        return {"loss": loss}

    def save(path):
        tf.raw_ops.Save(filename=path, tensor_names=["w"], data=[weight.read_value()])
        return {"path": path}

    def restore(path):
        weight.assign(
            tf.ensure_shape(tf.raw_ops.Restore(file_pattern=path, tensor_name="w", dt=tf.float32), [3, 1])
        )
        return {"path": path}

    made.weight = weight
    made.functions = {
        "train": tf.function(train, input_signature=[VECTOR]),
        "infer": tf.function(lambda x: {"y": x @ weight}, input_signature=[VECTOR]),
        "save": tf.function(save, input_signature=[path]),
        "restore": tf.function(restore, input_signature=[path]),
    }
    tf.saved_model.save(made, folder, dict(made.functions))


def flat(folder):
    """A TensorFlow 1 model."""
    from hostile_tf1 import save

    save(folder)


def flat_constants(folder):
    tf1 = tf.compat.v1
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(0)
        x = tf1.placeholder(tf.float32, [None, 4], name="x")
        y = tf.nn.softmax(x @ tf.constant(np.ones((4, 2), np.float32)))
        tf1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y})


def flat_table(folder):
    tf1, words = tf.compat.v1, folder.parent / "words.txt"
    words.write_text("a\nb\n")
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(0)
        line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        filled = tf.lookup.TextFileInitializer(str(words), tf.string, line, tf.int64, number)
        table = tf.lookup.StaticHashTable(filled, -1)
        x = tf1.placeholder(tf.string, [None], name="x")
        signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": table.lookup(x)})
        session.run(tf1.tables_initializer())
        builder = tf1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            main_op=tf1.tables_initializer(),
            assets_collection=tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS),
        )
        builder.save()


def application(name):
    """The exporter of a model of `keras.applications`."""

    def build(folder):
        model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=3)
        model.export(folder, verbose=False)

    build.__name__ = name
    return build


PLAIN = (
    convolutions,
    upsampling,
    activations,
    lstm,
    gru,
    bidirectional,
    attention,
    preprocessing,
    categories,
    hashing,
    token_numbers,
    dictionaries,
    half_precision,
    module,
    condition,
    loop,
    mapping,
    scanning,
    vectorized,
    custom_gradient,
    jpeg_bytes,
    serialized_examples,
    printing,
    random_numbers,
    flat,
    flat_constants,
)
WITH_TABLES = (
    text_vectorization,
    string_lookup,
    string_lookup_from_a_file,
    static_table,
    table_from_an_asset,
    changing_table,
    flat_table,
)
LARGE = tuple(map(application, ("MobileNetV2", "EfficientNetB0", "ConvNeXtTiny", "ResNet50", "DenseNet121")))
