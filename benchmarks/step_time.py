"""One training step of a small student: kd's loop against `model.fit` with default settings.

Run: python benchmarks/step_time.py [--rounds 7] [--data mnist.npz]

The Keras documentation's student on MNIST-sized pictures, batch 64, Adam, labels only, data in memory; without
`--data` on random pictures (the time does not depend on what they show). Both sides train the same number of
steps in each round, in turn (A B A B ...); the first round of each, which compiles, is not counted. The figure
is the ratio of the medians. Predicted from an earlier measurement: 2.2 ms against 5.7 ms, a ratio of 2.6.
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np
from documentation_models import build_student

from kdcli.data.feed import Feed
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.data.views import Views
from kdcli.distillation.objective import Objective
from kdcli.distillation.terms import Term
from kdcli.lazy import keras, tf
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.recipe.optimizer import ADAM
from kdcli.training.step import Stepper

BATCH = 64
STEPS = 300


def pictures(path):
    if path:
        with np.load(path) as file:
            return file["x_train"][..., None], file["y_train"].astype(np.int64)
    random = np.random.default_rng(0)
    return random.integers(0, 256, (20000, 28, 28, 1), np.uint8), random.integers(0, 10, 20000)


def kd_side(x, y):
    examples = splits_from_arrays({"x": x, "y": y}, name="benchmark").train
    network = KerasNetwork(build_student(), name="student")
    network = network.with_preprocessing({"x": Preprocessing((28, 28, 1), "uint8", (28, 28, 1), "float32")})
    views = Views((), seed=0, count=1, examples=len(examples))
    objective = Objective([Term(make("labels"))], student=network)
    optimizer = ADAM.build(1e-3)
    optimizer.build(objective.trainable_variables)
    strategy = tf.distribute.get_strategy()
    feed = Feed(examples, views)
    stepper = Stepper(objective, feed, optimizer, batch_size=BATCH, total_steps=10**6, strategy=strategy)
    order = np.random.default_rng(0).permutation(len(x))[: STEPS * BATCH].reshape(STEPS, BATCH)
    table = views.table(0)

    def train():
        stepper.start(order, table=table, slot=0)
        assert stepper.run(STEPS, first=0).not_finite is None

    return train


def fit_side(x, y):
    model = build_student()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    scaled, labels = x[: STEPS * BATCH].astype(np.float32) / 255, y[: STEPS * BATCH]

    def train():
        model.fit(scaled, labels, batch_size=BATCH, epochs=1, verbose=0)

    return train


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data")
    arguments = parser.parse_args()
    x, y = pictures(arguments.data)
    sides = {"kd": kd_side(x, y), "model.fit": fit_side(x, y)}
    samples = {name: [] for name in sides}
    for number in range(arguments.rounds + 1):
        for name, train in sides.items():
            since = time.perf_counter()
            train()
            if number:
                samples[name].append((time.perf_counter() - since) / STEPS * 1e3)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or "all"
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {platform.machine()}, threads {threads}")
    for name, values in samples.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:10} median {middle:.2f} ms a step   min {low:.2f}   max {high:.2f}")
    medians = {name: statistics.median(values) for name, values in samples.items()}
    ratios = [b / a for a, b in zip(samples["kd"], samples["model.fit"], strict=True)]
    print(
        f"model.fit / kd: {medians['model.fit'] / medians['kd']:.2f} "
        f"(round by round {min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(json.dumps({**medians, "ratio": medians["model.fit"] / medians["kd"]}))


if __name__ == "__main__":
    main()
