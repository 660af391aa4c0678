"""The teacher's pass over many examples: `model.predict` against kd's pass in float32 and in mixed_bfloat16.

Run: python benchmarks/teacher_pass.py [--rounds 5] [--seconds 0.8]

Four teachers with random weights (the time does not depend on them): the Keras documentation's on 28×28 pictures,
a ResNet-20 for 32×32, MobileNetV2 on 96×96, and the documentation's as a SavedModel, which has no `predict`: there
Keras' way is the exported function in batches of 32. All ways answer the same bytes, in turn (A B C, C B A, ...);
each round lasts about `--seconds` for each way. The search of a batch size and the first call, which compiles, are
not counted. The figure is the median of the ratios round by round: how many times as fast as `predict`.

Predicted from earlier measurements on two cores: the pass in float32 1.1 to 1.8 times as fast as `predict` (larger
batches, folded constants, no callbacks), mixed_bfloat16 1.5 to 2 times as fast again where the processor has
AVX512-BF16 or AMX and the network is made of ordinary convolutions; MobileNetV2's depthwise ones gain nothing.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from documentation_models import build_teacher

from kdcli.data.named_arrays import splits_from_arrays
from kdcli.data.views import Views
from kdcli.lazy import keras, tf
from kdcli.models.hardware import is_fast_in, read_processor_flags
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.saved_model.open import open_graph
from kdcli.teacher.inference import TeacherPass
from kdcli.zoo import Resnet

EXAMPLES = 6144
BATCH = 32


@dataclass
class Way:
    """One way to answer examples 0 .. n - 1: `ask(n)`."""

    ask: object
    batch: object


def mobilenet():
    return keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10, classifier_activation=None)


def resnet():
    return Resnet(depth=20).build((32, 32, 3), 10)


TEACHERS = {
    "documentation": (build_teacher, False),
    "resnet20": (resnet, False),
    "mobilenet_v2_96": (mobilenet, False),
    "documentation_saved_model": (build_teacher, True),
}


def ways(build, saved):
    """The ways to ask one teacher."""
    keras.utils.set_random_seed(0)
    model = build()
    shape = tuple(model.input_shape[1:])
    pictures = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *shape), np.uint8)
    scaled = pictures[:1024].astype(np.float32) / 255
    network = KerasNetwork(model, name="teacher")
    found = {"predict": Way(lambda n: model.predict(scaled[:n], batch_size=BATCH, verbose=0), lambda: BATCH)}
    if saved:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "model")
            model.export(folder, format="tf_saved_model", verbose=False)
            loaded, network = tf.saved_model.load(folder), open_graph(folder, name="teacher")
        found = {"predict": Way(lambda n: served(loaded, scaled[:n]), lambda: BATCH)}
    network = network.with_preprocessing({"x": Preprocessing(shape, "uint8", shape, "float32")})
    examples = splits_from_arrays({"x": pictures, "y": np.arange(EXAMPLES) % 10}, name="benchmark").train
    views = Views((), seed=0, count=1, examples=EXAMPLES)
    for precision in ("float32", "mixed_bfloat16"):
        ask = TeacherPass(network, (), examples, views, precision=precision)
        found[precision] = Way(lambda n, ask=ask: ask(0, 0, n)["logits"], lambda ask=ask: ask.batch_size)
        # The search of the batch size belongs to the pass; here it is over before anything is timed.
        ask(0, 0, EXAMPLES)
    exact, kd = found["predict"].ask(64), found["float32"].ask(64)
    np.testing.assert_allclose(kd, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())
    return found


def served(loaded, scaled):
    parts = [loaded.serve(scaled[at : at + BATCH]).numpy() for at in range(0, len(scaled), BATCH)]
    return np.concatenate(parts)


def milliseconds(found, *, rounds, seconds):
    """Milliseconds of an example in each round, by way."""
    counts, taken = {}, {name: [] for name in found}
    for name, way in found.items():
        way.ask(256)
        began = time.perf_counter()
        way.ask(256)
        wanted = seconds * 256 / (time.perf_counter() - began)
        counts[name] = int(np.clip(wanted // 256 * 256, 256, 1024 if name == "predict" else EXAMPLES))
    for number in range(rounds):
        for name in list(found)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            found[name].ask(counts[name])
            taken[name].append((time.perf_counter() - began) * 1e3 / counts[name])
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8)
    arguments = parser.parse_args()
    machine = {
        "processor": platform.processor() or platform.machine(),
        "bfloat16": list(read_processor_flags()),
        "fast_in_bfloat16": is_fast_in("mixed_bfloat16"),
        "cores": os.cpu_count(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or "all",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{'teacher':26} {'way':15} {'batch':>5} {'ms an example':>14} {'times predict':>14}  round by round")
    document = {"machine": machine, "teachers": {}}
    for teacher, (build, saved) in TEACHERS.items():
        found = ways(build, saved)
        taken = milliseconds(found, rounds=arguments.rounds, seconds=arguments.seconds)
        document["teachers"][teacher] = {}
        for name, values in taken.items():
            ratios = [a / b for a, b in zip(taken["predict"], values, strict=True)]
            figures = {
                "batch": found[name].batch(),
                "milliseconds": round(statistics.median(values), 4),
                "times_predict": round(statistics.median(ratios), 2),
            }
            document["teachers"][teacher][name] = figures
            print(
                f"{teacher:26} {name:15} {figures['batch']:5} {figures['milliseconds']:14.3f} "
                f"{figures['times_predict']:14.2f}  {min(ratios):.2f} to {max(ratios):.2f}"
            )
    print(json.dumps(document))


if __name__ == "__main__":
    main()
