"""A teacher as a frozen SavedModel against the Keras model that it was exported from: time of an answer.

Run: python benchmarks/frozen_graph.py [--rounds 21] [--requests 10]

Two networks, weights random (the time does not depend on them): a ResNet-like one on 32×32 pictures and
MobileNetV2 on 96×96. Both forms answer the same batches through one compiled function each, as kd asks a teacher;
blocks of requests are taken in turn (A B B A ...), and the first round, which compiles, is not counted. The figure
is the ratio of the medians: 1.0 is as fast, more is faster than the Keras model.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from kdcli.lazy import keras, tf
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.saved_model.open import open_graph

BATCHES = (1, 32, 256)


def resnet_like():
    layers = keras.layers

    def block(x, channels, strides):
        y = layers.Conv2D(channels, 3, strides, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization()(y)
        if strides > 1:
            x = layers.BatchNormalization()(layers.Conv2D(channels, 1, strides, use_bias=False)(x))
        return layers.ReLU()(layers.Add()([x, y]))

    inputs = keras.Input((32, 32, 3), name="picture")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)))
    for channels, strides in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        x = block(x, channels, strides)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def mobilenet():
    inputs = keras.Input((96, 96, 3), name="picture")
    return keras.applications.MobileNetV2(input_tensor=inputs, weights=None, alpha=0.35, classes=10)


def both_forms(build):
    """The same model twice, each as a compiled function of a batch."""
    keras.utils.set_random_seed(0)
    model = build()
    shape = tuple(model.input_shape[1:])
    with tempfile.TemporaryDirectory() as scratch:
        model.export(Path(scratch, "model"), format="tf_saved_model", verbose=False)
        networks = {
            "keras": KerasNetwork(model, name="keras"),
            "frozen": open_graph(Path(scratch, "model"), name=""),
        }
    preparation = {"picture": Preprocessing(shape, "float32", shape, "float32")}

    def compiled(network):
        network = network.with_preprocessing(preparation)
        return tf.function(
            lambda x: network.compute({"picture": x}).logits, autograph=False, reduce_retracing=True
        )

    return {form: compiled(network) for form, network in networks.items()}, shape


def blocks(functions, batch, *, rounds, requests):
    """Milliseconds of a request in each block, by form."""
    taken = {form: [] for form in functions}
    x = tf.constant(np.random.default_rng(0).random(batch, np.float32))
    answers = [function(x).numpy() for function in functions.values()]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)
    for number in range(rounds + 1):
        order = list(functions) if number % 2 else list(functions)[::-1]
        for form in order:
            began = time.perf_counter()
            for _ in range(requests):
                functions[form](x).numpy()
            taken[form].append((time.perf_counter() - began) * 1000 / requests)
    return {form: values[1:] for form, values in taken.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--requests", type=int, default=10)
    arguments = parser.parse_args()
    found = {}
    for build in (resnet_like, mobilenet):
        functions, shape = both_forms(build)
        for size in BATCHES:
            requests = max(1, arguments.requests * 32 // max(size, 32))
            taken = blocks(functions, (size, *shape), rounds=arguments.rounds, requests=requests)
            medians = {form: statistics.median(values) for form, values in taken.items()}
            ratios = [a / b for a, b in zip(taken["keras"], taken["frozen"], strict=True)]
            found[f"{build.__name__} batch {size}"] = {
                "keras_ms": round(medians["keras"], 3),
                "frozen_ms": round(medians["frozen"], 3),
                "ratio": round(medians["keras"] / medians["frozen"], 3),
                "ratio_of_blocks": [round(q, 3) for q in statistics.quantiles(ratios, n=4)],
            }
    document = {"machine": platform.machine(), "tensorflow": tf.__version__, "found": found}
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
