"""One small classifier, saved in every way in which people save models."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

SIZE, CLASSES = 8, 3
INPUTS = "pixels"


def classifier(*, seed: int = 0, width: int = 4, softmax: bool = True):
    """Convolution, BatchNorm, pooling and a softmax, with layers that have names."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((SIZE, SIZE, 1), name=INPUTS)
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="edges")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="shapes")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Flatten(name="flat")(x)
    head = layers.Dense(CLASSES, activation="softmax" if softmax else None, name="head")(x)
    return keras.Model(inputs, head, name="small")


def taught(pictures: np.ndarray, labels: np.ndarray):
    """The classifier after a few steps: right most of the time."""
    model = classifier()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(pictures / 255.0, labels, epochs=12, batch_size=32, verbose=0)
    return model


OLD = """
import sys
import numpy as np
import tf_keras as keras

weights = np.load(sys.argv[1])
layers = keras.layers
model = keras.Sequential([
    layers.InputLayer((8, 8, 1), name="pixels"),
    layers.Conv2D(4, 3, padding="same", activation="relu", name="edges"),
    layers.BatchNormalization(name="norm"),
    layers.Conv2D(4, 3, padding="same", activation="relu", name="shapes"),
    layers.MaxPooling2D(2, name="pool"),
    layers.Flatten(name="flat"),
    layers.Dense(3, activation="softmax", name="head"),
], name="small")
model.set_weights([weights[f"arr_{number}"] for number in range(len(weights.files))])
model.compile("adam", "mse")
model.save(sys.argv[2])
np.save(sys.argv[4], model.predict(np.load(sys.argv[3]), verbose=0))
"""


def save_with_keras_2(model, target: Path, pictures: np.ndarray) -> np.ndarray:
    """Save the classifier with Keras 2, in a process of its own; gives its answers to the pictures."""
    scratch = target.parent / f"{target.name}-made"
    scratch.mkdir()
    np.savez(scratch / "weights.npz", *model.get_weights())
    np.save(scratch / "pictures.npy", pictures)
    words = [scratch / "weights.npz", target, scratch / "pictures.npy", scratch / "answers.npy"]
    ran = subprocess.run(
        [sys.executable, "-c", OLD, *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return np.load(scratch / "answers.npy")


class Module(tf.Module):
    """The classifier without Keras: variables and a function."""

    def __init__(self, model):
        super().__init__()
        pairs = [(f"{layer.name}/{weight.name}", weight) for layer in model.layers for weight in layer.weights]
        self.held = {name: tf.Variable(weight.numpy(), name=name.replace("/", "_")) for name, weight in pairs}

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 1), name=INPUTS)])
    def __call__(self, pixels):
        held = self.held
        x = tf.nn.relu(tf.nn.conv2d(pixels, held["edges/kernel"], 1, "SAME") + held["edges/bias"])
        x, _, _ = tf.compat.v1.nn.fused_batch_norm(
            x,
            held["norm/gamma"],
            held["norm/beta"],
            mean=held["norm/moving_mean"],
            variance=held["norm/moving_variance"],
            epsilon=1e-3,
            is_training=False,
        )
        x = tf.nn.relu(tf.nn.conv2d(x, held["shapes/kernel"], 1, "SAME") + held["shapes/bias"])
        x = tf.reshape(tf.nn.max_pool2d(x, 2, 2, "VALID"), (-1, 64))
        return {"head": tf.nn.softmax(x @ held["head/kernel"] + held["head/bias"])}


def save_as(origin: str, model, folder: Path, pictures: np.ndarray) -> tuple[Path, np.ndarray]:
    """Save the classifier; gives the path and what its own framework answers to pictures in [0, 1]."""
    answers = model.predict(pictures, verbose=0)
    if origin in ("keras", "h5"):
        path = folder / f"m.{origin}"
        model.save(path)
    elif origin == "keras-3-saved-model":
        path = folder / "k3"
        model.export(path, verbose=False)
    elif origin in ("keras-2-saved-model", "keras-2-h5"):
        path = folder / ("k2" if origin == "keras-2-saved-model" else "k2.h5")
        answers = save_with_keras_2(model, path, pictures)
    elif origin == "module":
        path = folder / "module"
        module = Module(model)
        tf.saved_model.save(module, path, signatures=module.__call__)
        answers = module(tf.constant(pictures))["head"].numpy()
    elif origin == "tflite":
        path = folder / "m.tflite"
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    else:
        path = folder / "m.onnx"
        with warnings.catch_warnings():
            # The converter uses names that NumPy is going to drop.
            warnings.simplefilter("ignore", FutureWarning)
            model.export(path, format="onnx", verbose=False)
    return path, answers
