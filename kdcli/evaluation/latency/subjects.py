"""What can be timed: a model at a batch size, with requests of real examples."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, Protocol

import numpy as np

from kdcli.lazy import ops, tf
from kdcli.models.network import Network
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.runtimes.network import RunnerNetwork

POOL_EXAMPLES = 256
# TensorFlow decides for each compiled function, from its first calls, which operations another thread runs: two of
# one graph differ by several percent for good. Many of them show the model rather than that chance.
MAX_INSTANCES, COMPILE_SECONDS = 12, 2.0
# One input as an array with the batch axis, several as a tuple of them.
TimedRequest = Any


class Subject(Protocol):
    """What can be timed."""

    runtime: str
    threads: int

    def time_block(self, requests: list[TimedRequest]) -> np.ndarray:
        """Nanoseconds (int64) of each request, one after the other."""
        ...


SubjectFactory = Callable[[int], tuple[Subject, list[TimedRequest]]]


class KerasSubject:
    """A Keras network as its compiled function of a fixed shape.

    Args:
        network: with its preparations; they are done before, and not timed.
        batch: examples in a request.
        instances: how often it is compiled, time permitting; blocks take them in turn.
    """

    runtime = "tensorflow"

    def __init__(self, network: Network, *, batch: int = 1, instances: int = 1) -> None:
        self.threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
        functions, began = [compile_network(network, batch=batch)], time.perf_counter()
        while len(functions) < instances and time.perf_counter() - began < COMPILE_SECONDS:
            functions.append(compile_network(network, batch=batch))
        self.instances = len(functions)
        self.function = functions[0]
        self._functions = cycle(functions)

    def time_block(self, requests: list[TimedRequest]) -> np.ndarray:
        """Nanoseconds (int64) of each request, its output read back."""
        function, tensor, clock = next(self._functions), tf.convert_to_tensor, time.perf_counter_ns
        taken = np.empty(len(requests), np.int64)
        for number, request in enumerate(requests):
            arrays = request if isinstance(request, tuple) else (request,)
            began = clock()
            function(*[tensor(array) for array in arrays]).numpy()
            taken[number] = clock() - began
        return taken


def make_keras_factory(network: Network, raw: Mapping[str, np.ndarray]) -> SubjectFactory:
    """A network to be timed at any batch on prepared real examples: `raw` by input name, 256 are enough."""
    arrays = preprocess_examples(network.preprocessing, raw)

    def at(batch: int) -> tuple[Subject, list[TimedRequest]]:
        instances = MAX_INSTANCES if batch == 1 else 1
        return KerasSubject(network, batch=batch, instances=instances), make_requests(arrays, batch)

    return at


def make_network_factory(network: Network, raw: Mapping[str, np.ndarray]) -> SubjectFactory:
    """A network to be timed as it is run: a file in its own runtime by that one, every other by TensorFlow."""
    if isinstance(network, RunnerNetwork):
        return make_runner_factory(network.runner, preprocess_examples(network.preprocessing, raw))
    return make_keras_factory(network, raw)


def make_runner_factory(runner: Subject, arrays: Sequence[np.ndarray]) -> SubjectFactory:
    """A subject that takes any batch, such as an opened `.tflite` file, on what it takes as input."""
    return lambda batch: (runner, make_requests(arrays, batch))


def make_requests(arrays: Sequence[np.ndarray], batch: int) -> list[TimedRequest]:
    """Up to 256 examples as requests of `batch`; where there are fewer examples than that they come again."""
    count = min(len(arrays[0]), POOL_EXAMPLES)
    starts = range(0, max(count - batch, 0) + 1, batch)
    parts = [[array[np.arange(start, start + batch) % count] for array in arrays] for start in starts]
    return [tuple(part) if len(part) > 1 else part[0] for part in parts]


def compile_network(network: Network, *, batch: int) -> Any:
    """The concrete function from prepared inputs, in the order of `preparations`, to the model's own output."""
    identity = {name: _as_it_is(one) for name, one in network.preprocessing.items()}
    bare = network.with_preprocessing(identity)

    def answer(*tensors: Any) -> Any:
        return bare.compute_saved_output(dict(zip(identity, tensors, strict=True)))

    specs = [tf.TensorSpec((batch, *one.preprocessed_shape), one.dtype) for one in identity.values()]
    return tf.function(answer, autograph=False).get_concrete_function(*specs)


def preprocess_examples(
    preparations: Mapping[str, Preprocessing], raw: Mapping[str, np.ndarray]
) -> Sequence[np.ndarray]:
    """Raw examples as a network takes them, in the order of its preparations."""
    return [ops.convert_to_numpy(one(raw[name])) for name, one in preparations.items()]


def _as_it_is(one: Preprocessing) -> Preprocessing:
    """The preparation of what is prepared already: nothing is done to it."""
    return Preprocessing(one.preprocessed_shape, one.dtype, one.shape, one.dtype, scale="raw")
