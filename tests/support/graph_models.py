"""Tiny SavedModels of every origin, frozen in this process instead of a child process."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kdcli.models.preprocessing import Preprocessing
from kdcli.models.saved_model.child_main import handle_request
from kdcli.models.saved_model.freeze import MAX_WEIGHT_BYTES, read_frozen_graph
from kdcli.models.saved_model.network import FrozenNetwork

layers = keras.layers
IMAGES = np.random.default_rng(0).random((7, 12, 12, 3), np.float32)
TOKENS = np.random.default_rng(1).integers(0, 20, (7, 6)).astype(np.int32)


def freeze_here(folder: Path, *, legacy=False, signature=None, limit=MAX_WEIGHT_BYTES, values=None):
    """What the freezing process would return."""
    scratch = folder.parent / f"{folder.name}-{signature}-{limit}"
    scratch.mkdir(exist_ok=True)
    options = {"legacy": legacy, "signature": signature, "max_weight_bytes": limit, "values": values}
    handle_request({"path": str(folder), "scratch": str(scratch), **options})
    return read_frozen_graph(scratch, name=folder.name)


def with_identity(network, **arrays):
    """The network with preprocessing that changes nothing."""
    return network.with_preprocessing(
        {
            spec.name: Preprocessing(array.shape[1:], str(array.dtype), spec.shape, spec.dtype)
            for spec, array in ((spec, arrays[spec.name]) for spec in network.inputs)
        }
    )


def open_frozen(folder: Path, array, *, signature=None, **options):
    """A frozen network with one input, ready for an array, and that array by name."""
    network = FrozenNetwork(freeze_here(folder, signature=signature), name=folder.name, **options)
    raw = {network.inputs[0].name: array}
    return with_identity(network, **raw), raw


def export(model, folder: Path, **options) -> Path:
    """A Keras model as a SavedModel."""
    model.export(folder, format="tf_saved_model", verbose=False, **options)
    return folder


def shift_statistics(model):
    """The model with moving statistics that differ from their initial values."""
    random = np.random.default_rng(5)
    for weight in model.weights:
        if "moving" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


def cnn():
    """Rescaling, BatchNorm, a nested block, dropout, pooling and a softmax."""
    keras.utils.set_random_seed(0)
    inside = keras.Input((12, 12, 4))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inside)
    block = keras.Model(inside, layers.Add(name="plus")([x, inside]), name="block")
    inputs = keras.Input((12, 12, 3), name="picture")
    x = layers.Rescaling(2.0, name="scale")(inputs)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, padding="same", name="stem")(x))
    x = block(layers.ReLU(name="act")(x))
    x = layers.Dropout(0.5, name="drop")(layers.MaxPooling2D(name="shrink")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return shift_statistics(keras.Model(inputs, layers.Dense(5, activation="softmax", name="out")(x), name="net"))


def any_size():
    """A network for images of any size, with one sigmoid."""
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, name="stem")(inputs)
    return keras.Model(inputs, layers.Dense(1, "sigmoid")(layers.GlobalMaxPooling2D()(x)))


def shared():
    """A layer that is called twice."""
    inputs = keras.Input((12, 12, 3))
    same = layers.Conv2D(3, 3, padding="same", activation="tanh", name="same")
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.Flatten()(same(same(inputs)))))


def recurrent():
    """A recurrent network on token ids."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 8, name="words"),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both"),
            layers.GRU(5, name="last"),
            layers.Dense(3, name="out"),
        ]
    )


def attention():
    """One block of a transformer."""
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, name="words")(inputs)
    x = layers.LayerNormalization(name="norm")(x + layers.MultiHeadAttention(2, 4, name="look")(x, x))
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling1D(name="pool")(x)))


def half():
    """Weights in float32, computing in bfloat16, a float32 output."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, dtype="mixed_bfloat16", name="stem")(inputs)
    x = layers.GlobalAveragePooling2D(dtype="mixed_bfloat16")(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax", dtype="float32")(x))


KERAS = {
    "cnn": (cnn, IMAGES),
    "any_size": (any_size, IMAGES),
    "shared": (shared, IMAGES),
    "recurrent": (recurrent, TOKENS),
    "attention": (attention, TOKENS),
    "half": (half, IMAGES),
}


class Plain(tf.Module):
    """A `tf.Module` with several signatures, arguments and results, and no scopes."""

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(3)
        self.left = tf.Variable(random.standard_normal((3, 4)), dtype=tf.float32, name="left")
        self.right = tf.Variable(random.standard_normal((5, 4)), dtype=tf.float32, name="right")
        self.out = tf.Variable(random.standard_normal((4, 2)), dtype=tf.float32, name="out")
        self.steps = tf.Variable(0, trainable=False, name="steps")

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 5])])
    def infer(self, wide, alone):
        """Two arguments that are not in alphabetical order, and three results."""
        hidden = tf.nn.relu(wide @ self.left - alone @ self.right, name="hidden")
        logits = tf.matmul(hidden, self.out, name="score")
        return {"logits": logits, "chosen": tf.nn.softmax(logits), "best": tf.argmax(logits, -1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def embed(self, wide):
        """Another signature."""
        return {"embedded": tf.sigmoid(wide @ self.left)}

    @tf.function(input_signature=[tf.TensorSpec([4, 3])])
    def four(self, wide):
        """Only batches of four."""
        hidden = tf.nn.relu(tf.reshape(wide, [4, 3]) @ self.left, name="hidden")
        return {"scores": tf.nn.softmax(tf.matmul(hidden, self.out))}

    @tf.function(input_signature=[tf.TensorSpec([3])])
    def one(self, wide):
        """An input without a batch axis: its only axis holds the three values of one example."""
        return {"scores": tf.linalg.matvec(self.left, wide, transpose_a=True)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def scalar(self, number):
        """No axis at all."""
        return {"scores": number * self.out}


def save_plain(folder: Path) -> Path:
    """Save that module."""
    module = Plain()
    names = ("infer", "embed", "four", "scalar")
    tf.saved_model.save(module, folder, signatures={name: getattr(module, name) for name in names})
    return folder


class Decoding(tf.Module):
    """A graph that starts from the bytes of JPEG files."""

    def __init__(self):
        super().__init__()
        self.model = cnn()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, files):
        """Decode, resize and classify."""

        def decode(content):
            image = tf.cast(tf.io.decode_jpeg(content, channels=3), tf.float32)
            return tf.image.resize(image, (12, 12))

        images = tf.map_fn(decode, files, fn_output_signature=tf.TensorSpec((12, 12, 3)))
        return {"scores": self.model(images / 255.0)}


def save_decoding(folder: Path) -> Path:
    """Save that module."""
    module = Decoding()
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
    return folder


class Looking(tf.Module):
    """A graph with a lookup table."""

    def __init__(self):
        super().__init__()
        keys, values = tf.constant([1, 2, 3], tf.int64), tf.constant([10.0, 20.0, 30.0])
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1.0)
        self.weight = tf.Variable([[1.0, 2.0]])

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.int64)])
    def serve(self, key):
        """A value of the table, times two weights."""
        return {"scores": self.table.lookup(key) * self.weight}


def save_lookup(folder: Path) -> Path:
    """Save that module."""
    module = Looking()
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
    return folder


def save_tf1_network(folder: Path, *, frozen=False) -> tuple[Path, np.ndarray]:
    """A SavedModel as TensorFlow 1 writes it, and its outputs for IMAGES."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        picture = v1.placeholder(tf.float32, (None, 12, 12, 3), name="picture")
        with v1.variable_scope("Net"):
            kernel = _weight("kernel", (3, 3, 3, 4), frozen)
            with tf.name_scope("conv"):
                x = tf.nn.relu(tf.nn.conv2d(picture, kernel, 1, "SAME"))
            with tf.name_scope("pool"):
                x = tf.reduce_mean(x, (1, 2))
            logits = tf.matmul(x, _weight("out", (4, 5), frozen), name="logits")
        scores = tf.nn.softmax(logits, name="scores")
        if not frozen:
            session.run(v1.global_variables_initializer())
        outputs = session.run(scores, {picture: IMAGES})
        signature = v1.saved_model.signature_def_utils.predict_signature_def({"images": picture}, {"s": scores})
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map={"predict": signature})
        builder.save()
    return folder, outputs


def _weight(name, shape, frozen):
    value = np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)
    return tf.constant(value, name=name) if frozen else tf.compat.v1.get_variable(name, initializer=value)


def save_tf1(folder: Path, build, array):
    """Save a SavedModel as TensorFlow 1 does; return the outputs of a TensorFlow 1 session.

    Args:
        build: from the placeholder `x` to (other inputs, the output, other values fed to the session).
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        # Deterministic TensorFlow builds random operations only with a seed.
        v1.set_random_seed(1)
        x = v1.placeholder(tf.float32, [None, *array.shape[1:]])
        inputs, output, fed = build(x)
        session.run(v1.global_variables_initializer())
        outputs = session.run(output, {x: array, **fed})
        v1.saved_model.simple_save(session, str(folder), {"x": x, **inputs}, {"scores": output})
    _forget_seeds(folder / "saved_model.pb")
    return outputs


def _forget_seeds(file: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for node in saved.meta_graphs[0].graph_def.node:
        if "seed2" in node.attr:
            node.attr["seed"].i = node.attr["seed2"].i = 0
    file.write_bytes(saved.SerializeToString())


def linear(x):
    """Twelve inputs and three outputs with a softmax, without a bias."""
    kernel = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
    return tf.nn.softmax(x @ tf.compat.v1.get_variable("kernel", initializer=kernel))
