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
from kdcli.models.preprocessing import Preparation
from kdcli.models.runtimes.network import RunnerNetwork

POOL = 256
# TensorFlow decides for each compiled function, from its first calls, which operations another thread runs: two of
# one graph differ by several percent for good. Many of them show the model rather than that chance.
INSTANCES, COMPILE_SECONDS = 12, 2.0
# One input as an array with the batch axis, several as a tuple of them.
Request = Any


class Subject(Protocol):
    """What can be timed."""

    runtime: str
    threads: int

    def time_block(self, requests: list[Request]) -> np.ndarray:
        """Nanoseconds (int64) of each request, one after the other."""
        ...


AtBatch = Callable[[int], tuple[Subject, list[Request]]]


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
        functions, began = [compiled(network, batch=batch)], time.perf_counter()
        while len(functions) < instances and time.perf_counter() - began < COMPILE_SECONDS:
            functions.append(compiled(network, batch=batch))
        self.instances = len(functions)
        self.function = functions[0]
        self._functions = cycle(functions)

    def time_block(self, requests: list[Request]) -> np.ndarray:
        """Nanoseconds (int64) of each request, its output read back."""
        function, tensor, clock = next(self._functions), tf.convert_to_tensor, time.perf_counter_ns
        taken = np.empty(len(requests), np.int64)
        for number, request in enumerate(requests):
            arrays = request if isinstance(request, tuple) else (request,)
            began = clock()
            function(*[tensor(array) for array in arrays]).numpy()
            taken[number] = clock() - began
        return taken


def keras_at(network: Network, raw: Mapping[str, np.ndarray]) -> AtBatch:
    """A network to be timed at any batch on prepared real examples: `raw` by input name, 256 are enough."""
    arrays = prepared(network.preparations, raw)

    def at(batch: int) -> tuple[Subject, list[Request]]:
        instances = INSTANCES if batch == 1 else 1
        return KerasSubject(network, batch=batch, instances=instances), requests_of(arrays, batch)

    return at


def network_at(network: Network, raw: Mapping[str, np.ndarray]) -> AtBatch:
    """A network to be timed as it is run: a file in its own runtime by that one, every other by TensorFlow."""
    if isinstance(network, RunnerNetwork):
        return runner_at(network.runner, prepared(network.preparations, raw))
    return keras_at(network, raw)


def runner_at(runner: Subject, arrays: Sequence[np.ndarray]) -> AtBatch:
    """A subject that takes any batch, such as an opened `.tflite` file, on what it takes as input."""
    return lambda batch: (runner, requests_of(arrays, batch))


def requests_of(arrays: Sequence[np.ndarray], batch: int) -> list[Request]:
    """Up to 256 examples as requests of `batch`; where there are fewer examples than that they come again."""
    count = min(len(arrays[0]), POOL)
    starts = range(0, max(count - batch, 0) + 1, batch)
    parts = [[array[np.arange(start, start + batch) % count] for array in arrays] for start in starts]
    return [tuple(part) if len(part) > 1 else part[0] for part in parts]


def compiled(network: Network, *, batch: int) -> Any:
    """The concrete function from prepared inputs, in the order of `preparations`, to the model's own output."""
    identity = {name: _as_it_is(one) for name, one in network.preparations.items()}
    bare = network.with_preparations(identity)

    def answer(*tensors: Any) -> Any:
        return bare.compute_saved_output(dict(zip(identity, tensors, strict=True)))

    specs = [tf.TensorSpec((batch, *one.prepared_shape), one.dtype) for one in identity.values()]
    return tf.function(answer, autograph=False).get_concrete_function(*specs)


def prepared(preparations: Mapping[str, Preparation], raw: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    """Raw examples as a network takes them, in the order of its preparations."""
    return [ops.convert_to_numpy(one(raw[name])) for name, one in preparations.items()]


def _as_it_is(one: Preparation) -> Preparation:
    """The preparation of what is prepared already: nothing is done to it."""
    return Preparation(one.prepared_shape, one.dtype, one.shape, one.dtype, scale="raw")
