"""How far the latency of a model is from its own: twins that share a graph, timed in many sessions.

Run: python benchmarks/latency_of_itself.py [--tries 20] [--seconds 3]

In each session one small network and an equal copy of it are timed in turns, as `kd compare` does. Printed are
the ratio of their medians, the noise floor of the session, and how often 1 lies within it.
"""

import argparse

import numpy as np
from documentation_models import build_student

from kdcli.evaluation.latency.measure import time_at_batches
from kdcli.evaluation.latency.subjects import make_keras_factory
from kdcli.lazy import keras
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing


def network(seed):
    keras.utils.set_random_seed(seed)
    one = KerasNetwork(build_student(), name=f"seed {seed}")
    return one.with_preprocessing({"x": Preprocessing((28, 28, 1), "uint8", (28, 28, 1), "float32")})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    raw = {"x": np.random.default_rng(0).integers(0, 256, (256, 28, 28, 1), np.uint8)}
    within, ratios = 0, []
    for number in range(arguments.tries):
        twins = {"one": make_keras_factory(network(1), raw), "other": make_keras_factory(network(2), raw)}
        session = time_at_batches(twins, seed=number, seconds=arguments.seconds, batches=(1,))
        floor = session.noise_floor("one", "other")
        width = max(abs(floor.low - 1), abs(floor.high - 1))
        held = abs(floor.value - 1) <= width and floor.low <= 1 <= floor.high
        within += held
        ratios.append(floor.value)
        doubts = "; ".join(session.doubts(floor)) or "stable"
        shown = f"{floor.value:.4f} [{floor.low:.4f}, {floor.high:.4f}]"
        print(f"try {number + 1:2}  ratio {shown}  {doubts}", flush=True)
    spread = np.std(ratios, ddof=1)
    print(f"1.00 within the noise floor in {within} of {arguments.tries}; sd of the ratio {spread:.4f}")


if __name__ == "__main__":
    main()
